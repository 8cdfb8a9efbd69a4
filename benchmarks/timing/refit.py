"""The fit that a circuit needs at every maximum: smooth, one after another, many at a time."""

from functools import partial

from torch import Tensor

from benchmarks.timing.propagation import Fit
from kernels.gmm import Gridded, Mixture
from kernels.gmm.fused import descend
from kernels.gmm.start import quantile_start


def refit(components: int) -> Fit:
    """Mixtures of so many components, by a few evaluations of the classical solver each."""
    return partial(_refit, components)


def _refit(components: int, masses: Tensor, edges: Tensor) -> Mixture:
    gridded = Gridded(masses, edges)
    start = quantile_start(gridded, components)
    return descend(gridded, start, budget=12, tolerance=1e-7).mixture
