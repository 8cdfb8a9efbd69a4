"""What runs: one module and one YAML a workload, and the command line."""
