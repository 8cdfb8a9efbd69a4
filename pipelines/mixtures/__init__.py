"""Gridded densities in, Gaussian mixtures out: in memory, or from a Zarr store to another."""

from pipelines.mixtures.fitting import Fitted, fit_mixture
from pipelines.mixtures.learned import ModelError, load_refiner
from pipelines.mixtures.store import DensityError, DensityStore, create_densities, open_densities
from pipelines.mixtures.streaming import Summary, fit_store

__all__ = [
    "DensityError",
    "DensityStore",
    "Fitted",
    "ModelError",
    "Summary",
    "create_densities",
    "fit_mixture",
    "fit_store",
    "load_refiner",
    "open_densities",
]
