"""Drawn densities, and how near mixtures come to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gmm import Gridded, Mixture, cdf, gridded_moments, kl_divergence, quantile
from kernels.gmm.families import FAMILIES, HELD_OUT, MAXIMA, Batch, draw_batch, uniform_edges

#: Probability of less than the mean and three standard deviations of a Gaussian.
THREE_SIGMA = torch.special.ndtr(torch.tensor([3.0], dtype=torch.float64))


class Trial:
    """Densities of all families, and what is known of them exactly.

    Args:
        count: Number of densities.
        points: Of the grid from -15 to 15.
        seed: Of the draw.
    """

    def __init__(self, count: int, points: int, seed: int) -> None:
        self.batch: Batch = draw_batch(
            tuple(FAMILIES), count, uniform_edges(points), torch.Generator().manual_seed(seed)
        )
        self.gridded = Gridded(self.batch.masses(), self.batch.edges[None])
        self.family, self.resolved = self.batch.family, self.batch.resolved
        self.maxima, self.held_out = self._of(MAXIMA), self._of(HELD_OUT)
        self._tail: Tensor = self.batch.quantile(THREE_SIGMA)[:, 0]
        self._sd = gridded_moments(self.gridded)[1].sqrt()

    def few(self, per_family: int) -> Tensor:
        """Rows of the first densities of each family, for contenders that are slow."""
        rows = [(self.family == i).nonzero()[:per_family, 0] for i in range(len(FAMILIES))]
        return torch.cat(rows)

    def _of(self, names: tuple[str, ...]) -> Tensor:
        wanted = torch.tensor([name in names for name in self.batch.names])
        return wanted[self.family]

    def measured(self, m: Mixture, rows: Tensor) -> "Quality":
        """The quality of mixtures (b, K) of some of the densities (b)."""
        part = self.gridded.rows(rows)
        below = torch.nn.functional.pad(part.masses.cumsum(dim=1), (1, 0))
        tail = quantile(m, THREE_SIGMA)[:, 0] - self._tail[rows]
        return Quality(
            rows=rows,
            kl=kl_divergence(part, m),
            cdf=(cdf(m, part.edges) - below).abs().amax(dim=1),
            tail=(tail / self._sd[rows]).abs(),
        )


@dataclass(frozen=True)
class Quality:
    """One value a density: divergence in nats, worst error of the CDF at an edge, error of the
    quantile at three sigma in standard deviations."""

    rows: Tensor
    kl: Tensor
    cdf: Tensor
    tail: Tensor

    def summary(self, trial: Trial) -> dict[str, float]:
        """The row of the table: resolved densities for kl and cdf, maxima for the tail."""
        finite = self.kl.isfinite() & self.cdf.isfinite() & self.tail.isfinite()
        resolved = trial.resolved[self.rows] & finite
        maxima = trial.maxima[self.rows] & finite
        return {
            "densities": len(self.rows),
            "kl_mean": float(self.kl[resolved].mean()),
            "kl_median": float(self.kl[resolved].median()),
            "cdf_mean": float(self.cdf[resolved].mean()),
            "cdf_worst": float(self.cdf[resolved].max()),
            "tail_median": float(self.tail[maxima].median()),
            "tail_p95": float(self.tail[maxima].quantile(0.95)),
            "finite": float(finite.double().mean()),
        }

    def by_family(self, trial: Trial) -> dict[str, float]:
        """Mean divergence of each family."""
        family = trial.family[self.rows]
        means = [float(self.kl[family == i].mean()) for i in range(len(trial.batch.names))]
        return dict(zip(trial.batch.names, means, strict=True))
