"""What a run was given and used, and what to ask for next time."""
