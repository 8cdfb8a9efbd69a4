"""Score-based data assimilation of Kolmogorov flow: simulate, train, assimilate, collect."""
