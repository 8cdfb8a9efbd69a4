"""What fits are measured on, the same for all members, and how."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.gmm.config import GmmConfig
from kernels.gmm import Gridded, Mixture, cdf, gridded_moments, kl_divergence, quantile
from kernels.gmm.families import FAMILIES, Batch, draw_batch, uniform_edges
from pipelines.seeds import generator

Measures = Mapping[str, NDArray[Any]]
"""Of one method: each of :data:`MEASURES`, (numbers of components, densities)."""

#: Probability of less than three standard deviations above the mean, of a Gaussian.
TAIL = float(torch.special.ndtr(torch.tensor(3.0, dtype=torch.float64)))

#: What is measured of each fit; the rest of the ensemble's arrays are the mixtures.
MEASURES = {
    "kl": "divergence of the fitted cell masses from the exact ones",
    "cdf_error": "greatest error of the distribution function at the cell edges",
    "tail_error": "error of the quantile at 3 sigma, in standard deviations of the density",
}


class TestSet:
    """The densities that all members are measured on, with what is known of them exactly.

    Args:
        config: The job.
    """

    __test__ = False

    def __init__(self, config: GmmConfig) -> None:
        self.names = tuple(FAMILIES)
        count = len(self.names) * config.evaluation.densities
        edges = uniform_edges(config.evaluation.points)
        self.drawn: Batch = draw_batch(self.names, count, edges, generator(config.seed, "evaluate"))
        self.gridded = Gridded(self.drawn.masses(), edges[None])
        tail = torch.tensor([TAIL], dtype=torch.float64)
        self.tail = self.drawn.quantile(tail).squeeze(-1)
        self.sd = gridded_moments(self.gridded)[1].sqrt()

    def of(self, *names: str) -> NDArray[np.bool_]:
        """Which of the densities are of these families."""
        wanted = torch.tensor([name in names for name in self.names])
        return np.asarray(wanted[self.drawn.family])

    def measured(self, fit: Mixture) -> dict[str, Tensor]:
        """How good a fit is, in float64: one value a density for each of :data:`MEASURES`."""
        fit = fit.to(torch.float64)
        exact = self.gridded.masses.cumsum(dim=-1)
        error = cdf(fit, self.gridded.edges)[:, 1:] - exact
        tail = torch.tensor([TAIL], dtype=torch.float64)
        return {
            "kl": kl_divergence(self.gridded, fit),
            "cdf_error": error.abs().amax(dim=-1),
            "tail_error": (quantile(fit, tail).squeeze(-1) - self.tail) / self.sd,
        }
