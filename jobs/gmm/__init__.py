"""A learned fitter of gridded densities: simulate, train, evaluate, collect."""
