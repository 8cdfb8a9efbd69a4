"""Where work runs and how it survives: executor, signals, memory, checkpoints, ledger, Slurm."""
