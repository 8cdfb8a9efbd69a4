"""Batch scripts, and their way to Slurm."""
