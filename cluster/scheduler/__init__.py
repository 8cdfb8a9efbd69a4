"""What Slurm is asked, and how its answers read."""
