"""Training: its settings, and the loop that carries its whole state in the open."""
