"""LSTMs of carbon fluxes: simulate sites, train variants, seeds and splits, collect, compare."""
