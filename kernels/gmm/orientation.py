"""Which way round a density is fitted: mirrored densities must have mirrored fits."""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture

#: Odd moments of a standard density that are less than this are rounding, and decide nothing.
TIE = 1e-10


class Orientation(NamedTuple):
    """The way round in which a density in standard coordinates has no negative skewness.

    Where the third moment is zero the fifth decides; where that is too, the density stays as it is.

    Attributes:
        mirrored: Whether it is the other way round, (B, 1).
    """

    mirrored: Tensor

    @classmethod
    def of(cls, standard: Gridded) -> "Orientation":
        """That of densities in standard coordinates; masses spread evenly over their cells."""
        edges = standard.edges.detach()
        middle, width = 0.5 * (edges[..., 1:] + edges[..., :-1]), edges.diff(dim=-1)
        first = standard.masses * middle
        third = (first * (middle.square() + 0.25 * width.square())).sum(dim=-1, keepdim=True)
        fifth = (first * middle**4).sum(dim=-1, keepdim=True)
        return cls(torch.where(third.abs() > TIE, third, fifth) < -TIE)

    def forward(self, standard: Gridded) -> Gridded:
        """The densities the right way round."""
        return standard._replace(
            masses=torch.where(self.mirrored, standard.masses.flip(-1), standard.masses),
            edges=torch.where(self.mirrored, -standard.edges.flip(-1), standard.edges),
        )

    def inverse(self, m: Mixture) -> Mixture:
        """Mixtures as the densities were; means in order stay in order."""
        turned = m._replace(means=-m.means)
        pairs = zip(m, turned, strict=True)
        return Mixture(*(torch.where(self.mirrored, new.flip(-1), old) for old, new in pairs))
