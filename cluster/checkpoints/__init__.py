"""Checkpoints: what is saved, when, and without making the steps wait."""
