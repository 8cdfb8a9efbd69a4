"""What a fit takes: densities on a grid as cell masses, checked; and one change of coordinates."""

from typing import Literal, NamedTuple, get_args

import torch
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


class Findings(NamedTuple):
    """What was found wrong, a flag for each row that was given, (B,).

    Attributes:
        not_finite: Holds NaN or infinity.
        negative: More than ``NEGATIVE_TOLERANCE`` of it is negative.
        empty: Has no mass.
        not_normalized: Cell masses that do not sum to one; used all the same.
        unresolved: Has a peak narrower than the grid can show; used all the same.
        kept: Index of the rows that are in the result.
    """

    not_finite: Tensor
    negative: Tensor
    empty: Tensor
    not_normalized: Tensor
    unresolved: Tensor
    kept: Tensor

    @property
    def bad(self) -> Tensor:
        """Rows that cannot be fitted as they are."""
        return self.not_finite | self.negative | self.empty


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
    values, grid = values.detach().double(), grid.detach().double()
    if kind not in get_args(Kind) or policy not in get_args(Policy):
        raise ValueError(f"kind is one of {get_args(Kind)}, policy of {get_args(Policy)}")
    grid = _checked_grid(values, grid, kind)
    edges = grid if grid.shape[-1] == values.shape[-1] + 1 else edges_of_points(grid)
    finite = values.isfinite().all(dim=-1)
    values = values.where(finite.unsqueeze(-1), torch.zeros_like(values))
    scale = values.abs().amax(dim=-1, keepdim=True)
    values = values / scale.where(scale > 0, torch.ones_like(scale))
    positive = values.clamp(min=0)
    masses = point_masses(positive, grid, edges) if kind == "point_density" else positive
    total = masses.sum(dim=-1)
    lost = (positive - values).sum(dim=-1) > NEGATIVE_TOLERANCE * positive.sum(dim=-1)
    empty = finite & ~(total > 0)
    sums = total * scale.squeeze(-1)
    odd = (kind == "cell_mass") & ((sums - 1).abs() > SUM_TOLERANCE) & finite & ~empty
    usable = (total > 0).unsqueeze(-1)
    masses = torch.where(usable, masses / total.unsqueeze(-1), _uniform(edges))
    rough = (masses.diff(n=2, dim=-1).abs() > ROUGHNESS).any(dim=-1) & usable.squeeze(-1)
    findings = Findings(~finite, lost & ~empty, empty, odd, rough, torch.arange(len(values)))
    return _by_policy(Gridded(masses, edges, kind), findings, policy)


def _by_policy(gridded: Gridded, findings: Findings, policy: Policy) -> tuple[Gridded, Findings]:
    bad = findings.bad
    if policy == "drop":
        findings = findings._replace(kept=(~bad).nonzero().squeeze(-1))
        return gridded.rows(~bad), findings
    if policy == "report":
        masses = gridded.masses.masked_fill(bad.unsqueeze(-1), torch.nan)
        return gridded._replace(masses=masses), findings
    return gridded, findings


def _checked_grid(values: Tensor, grid: Tensor, kind: Kind) -> Tensor:
    grid = grid.unsqueeze(0) if grid.ndim == 1 else grid
    allowed = {values.shape[-1]} | (set() if kind == "point_density" else {values.shape[-1] + 1})
    if values.ndim != 2 or grid.shape[-1] not in allowed or len(grid) not in (1, len(values)):
        raise ValueError(
            f"{kind} values are (B, N), found {tuple(values.shape)}; the grid has a last axis of "
            f"{sorted(allowed)} and one row or B, found {tuple(grid.shape)}"
        )
    if values.shape[-1] < 3:
        raise ValueError(f"a grid needs at least 3 cells, found {values.shape[-1]}")
    if not (grid.isfinite().all() and (grid.diff(dim=-1) > 0).all()):
        raise ValueError("a grid must be finite and increase from point to point; sort it")
    return grid


def edges_of_points(points: Tensor) -> Tensor:
    """Edges (*, N+1) half way between points (*, N), and as far beyond the ends."""
    middle = 0.5 * (points[..., 1:] + points[..., :-1])
    first, last = 2 * points[..., :1] - middle[..., :1], 2 * points[..., -1:] - middle[..., -1:]
    return torch.cat([first, middle, last], dim=-1)


def point_masses(density: Tensor, points: Tensor, edges: Tensor) -> Tensor:
    r"""Masses of the cells about points, to fourth order on a smooth grid.

    The integral of the parabola through three points; on a uniform grid
    :math:`h (f_i + \Delta^2 f_i / 24)`. Taking :math:`h f_i` would narrow a Gaussian's variance
    by :math:`h^2/12` against the cell masses that a fit compares it with.

    Args:
        density: Not negative, (B, N).
        points: (B, N) or (1, N).
        edges: Of :func:`edges_of_points`.

    Returns:
        (B, N), not negative; the first and the last cell to second order.
    """
    width = edges.diff(dim=-1)
    left, right = points.diff(dim=-1)[..., :-1], points.diff(dim=-1)[..., 1:]
    low, high = (density.diff(dim=-1) / points.diff(dim=-1)).unfold(-1, 2, 1).unbind(-1)
    bend = (high - low) / (left + right)
    slope = low + bend * left
    # Moments of the cell, from -left/2 to right/2, about its point.
    first = (right.square() - left.square()) / 8
    second = (right**3 + left**3) / 24
    masses = density * width
    inner = masses[..., 1:-1] + slope * first + bend * second
    return torch.cat([masses[..., :1], inner.clamp(min=0), masses[..., -1:]], dim=-1)


def _uniform(edges: Tensor) -> Tensor:
    width = edges.diff(dim=-1)
    return width / width.sum(dim=-1, keepdim=True)


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
