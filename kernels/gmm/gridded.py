"""What a fit takes: densities on a grid as cell masses, checked; and one change of coordinates."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.gmm.mixture import Mixture, log_cell_masses

Kind = Literal["point_density", "cell_mass", "histogram"]
Policy = Literal["report", "drop", "replace"]

#: Rows of which less than this fraction is negative are rounding errors: cut to zero.
NEGATIVE_TOLERANCE = 1e-6
#: Rows of cell masses that are further than this from a sum of one are reported.
SUM_TOLERANCE = 1e-3
#: Greatest second difference of the masses that a grid resolves: a peak of 0.6 to 0.9 cells.
ROUGHNESS = 0.4


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


#: Bits of ``Findings.flags``.
NOT_FINITE, NEGATIVE, EMPTY, NOT_NORMALIZED, UNRESOLVED = 1, 2, 4, 8, 16


class Findings(NamedTuple):
    """What was found wrong.

    Attributes:
        flags: Bits for each row that was given, (B,), uint8.
        kept: Index of the rows that are in the result.
    """

    flags: Tensor
    kept: Tensor

    @property
    def not_finite(self) -> Tensor:
        """Rows that hold NaN or infinity, (B,)."""
        return self.flags & NOT_FINITE > 0

    @property
    def negative(self) -> Tensor:
        """Of which more than ``NEGATIVE_TOLERANCE`` is negative."""
        return self.flags & NEGATIVE > 0

    @property
    def empty(self) -> Tensor:
        """That have no mass."""
        return self.flags & EMPTY > 0

    @property
    def not_normalized(self) -> Tensor:
        """Of cell masses that do not sum to one; used all the same."""
        return self.flags & NOT_NORMALIZED > 0

    @property
    def unresolved(self) -> Tensor:
        """That have a peak narrower than the grid can show; used all the same."""
        return self.flags & UNRESOLVED > 0

    @property
    def bad(self) -> Tensor:
        """Rows that cannot be fitted as they are."""
        return self.flags & (NOT_FINITE | NEGATIVE | EMPTY) > 0


def read_gridded(
    values: Tensor, grid: Tensor, kind: Kind, policy: Policy = "report"
) -> tuple[Gridded, Findings]:
    """Cell masses of gridded densities, bad rows kept apart.

    Args:
        values: Densities at the points, probabilities of the cells, or counts, (B, N).
        grid: Points, (N) or (B, N), or edges, (N+1) or (B, N+1), increasing. Densities need
            points; a cell reaches half way to the next point.
        kind: What the values are.
        policy: What becomes of a bad row: ``report`` makes its masses NaN, and so what is fitted
            to it; ``drop`` leaves it out; ``replace`` cuts what is negative to zero, and puts a
            uniform density in place of a row without finite mass.

    Returns:
        The masses in float64, and what was found.

    Raises:
        ValueError: Shapes that do not fit, a grid that does not increase, an unknown kind.
    """
    # Here, because the import of the compiler takes a second.
    from kernels.gmm.fused_reading import read_rows

    if kind not in get_args(Kind) or policy not in get_args(Policy):
        raise ValueError(f"kind is one of {get_args(Kind)}, policy of {get_args(Policy)}")
    given, places = as_array(values), as_array(grid)
    places = places[None] if places.ndim == 1 else places
    _check_shapes(given.shape, places.shape, kind)
    points, summed = kind == "point_density", kind == "cell_mass"
    found = read_rows(given, places, points, summed, policy == "report")
    masses, edges, flags = (torch.from_numpy(array).to(values.device) for array in found)
    findings = Findings(flags, torch.arange(len(flags), device=values.device))
    gridded = Gridded(masses, edges, kind)
    if policy == "drop":
        findings = findings._replace(kept=(~findings.bad).nonzero().squeeze(-1))
        gridded = gridded.rows(findings.kept)
    return gridded, findings


def as_array(tensor: Tensor) -> NDArray[np.float64]:
    """In float64 on the CPU, rows together, as compiled code takes it; no copy if it is so."""
    return tensor.detach().to("cpu", torch.float64).contiguous().numpy()


def _check_shapes(values: tuple[int, ...], grid: tuple[int, ...], kind: Kind) -> None:
    allowed = {values[-1]} | (set() if kind == "point_density" else {values[-1] + 1})
    if len(values) != 2 or grid[-1] not in allowed or grid[0] not in (1, values[0]):
        raise ValueError(
            f"{kind} values are (B, N), found {values}; the grid has a last axis of "
            f"{sorted(allowed)} and one row or B, found {grid}"
        )
    if values[1] < 3:
        raise ValueError(f"a grid needs at least 3 cells, found {values[1]}")


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
