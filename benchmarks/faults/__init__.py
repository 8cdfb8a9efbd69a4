"""A campaign of faults on a real Slurm: yaoki, submitit and Lightning under the same ones."""
