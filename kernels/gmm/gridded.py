"""What a fit takes: densities on a grid as cell masses; and one change of coordinates."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.gmm.mixture import Mixture, log_cell_masses

Kind = Literal["point_density", "cell_mass", "histogram"]


class Gridded(NamedTuple):
    """A batch of densities, as the probabilities of the cells of a grid.

    Attributes:
        masses: (B, N), not negative, rows sum to one.
        edges: (B, N+1) or, where all share a grid, (1, N+1); increasing.
        kind: What the masses were made from. Points do not say what is between them: it sets
            the least sigma of a fit.
    """

    masses: Tensor
    edges: Tensor
    kind: Kind = "cell_mass"

    def to(self, target: torch.dtype | torch.device | str) -> "Gridded":
        """The same densities in another precision or on another device."""
        return Gridded(self.masses.to(target), self.edges.to(target), self.kind)

    def rows(self, index: Tensor) -> "Gridded":
        """Some of the densities, by mask or by index."""
        edges = self.edges if len(self.edges) == 1 else self.edges[index]
        return Gridded(self.masses[index], edges, self.kind)


def as_array(tensor: Tensor) -> NDArray[np.float64]:
    """In float64 on the CPU, rows together, as compiled code takes it; no copy if it is so."""
    return tensor.detach().to("cpu", torch.float64).contiguous().numpy()


def cross_entropy(gridded: Gridded, m: Mixture) -> Tensor:
    r"""Binned cross-entropy :math:`-\sum_i w_i \log p_i`, (B,), in nats."""
    log_p = log_cell_masses(m, gridded.edges)
    return -(gridded.masses * log_p).sum(dim=-1)


def kl_divergence(gridded: Gridded, m: Mixture) -> Tensor:
    r"""Binned divergence :math:`\sum_i w_i \log (w_i / p_i)`, (B,), in nats, not negative.

    It is bounded below, whatever the sigmas: a spike cannot gain more than its cell.
    """
    log_p = log_cell_masses(m, gridded.edges)
    return (torch.xlogy(gridded.masses, gridded.masses) - gridded.masses * log_p).sum(dim=-1)


def gridded_moments(gridded: Gridded) -> tuple[Tensor, Tensor]:
    """Mean and variance (B,), each mass spread evenly over its cell."""
    origin = gridded.edges[..., :1]
    edges = gridded.edges - origin
    middle, width = 0.5 * (edges[..., 1:] + edges[..., :-1]), edges.diff(dim=-1)
    mean = (gridded.masses * middle).sum(dim=-1, keepdim=True)
    spread = (middle - mean).square() + width.square() / 12
    return (mean + origin).squeeze(-1), (gridded.masses * spread).sum(dim=-1)


class Standardization(NamedTuple):
    """Coordinates in which a density has mean zero and variance one.

    Training and inference both use it, so that a network sees neither units nor positions.

    Attributes:
        shift: Mean, (B, 1).
        scale: Standard deviation, (B, 1).
    """

    shift: Tensor
    scale: Tensor

    @classmethod
    def of(cls, gridded: Gridded) -> "Standardization":
        """That of each density's own mean and standard deviation."""
        mean, variance = gridded_moments(gridded)
        return cls(mean.unsqueeze(-1), variance.sqrt().unsqueeze(-1))

    def forward(self, gridded: Gridded) -> Gridded:
        """The densities in standard coordinates; edges become (B, N+1)."""
        return gridded._replace(edges=(gridded.edges - self.shift) / self.scale)

    def inverse(self, m: Mixture) -> Mixture:
        """Mixtures of standard coordinates in those of the densities."""
        return m._replace(means=m.means * self.scale + self.shift, sigmas=m.sigmas * self.scale)

    def mixture(self, m: Mixture) -> Mixture:
        """Mixtures of the densities' coordinates in standard ones."""
        return m._replace(means=(m.means - self.shift) / self.scale, sigmas=m.sigmas / self.scale)
