"""Reproducible batches of one-dimensional densities on a grid, of fourteen families.

A batch is a pure function of the families, the count, the grid and the generator's state, so a
caller who seeds a generator for each batch, say by ``pipelines.seeds.generator(seed, i)``, gets
batch i whatever was drawn before. Masses come from exact distribution functions, not from
quadrature over the cells; every density is that of its family *given* that it falls on the grid.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gmm.shapes import (
    ExponentialGaussian,
    Gamma,
    GaussianSum,
    LogNormal,
    MaximumOfPair,
    MaximumOfSeveral,
    Shape,
    SkewNormal,
    StudentT,
    Triangular,
    Uniform,
)

RESOLVED_CELLS = 0.5
"""A density is resolved by a grid whose cells are at most twice as wide as its sharpest feature."""


@dataclass(frozen=True)
class Family:
    """How the densities of one family are drawn and put on a grid.

    Args:
        name: The key in :data:`FAMILIES`.
        draw: Makes ``count`` shapes.
        held_out: Never trained on, to measure generalization.
        resolved: Placed wide enough for a uniform grid to resolve it, see RESOLVED_CELLS.
        cells: Least width in mean cells; and the largest, None for what the grid has room for.
        reach: Half the room that a density of width one needs on the grid.
        skewed: Half of them are reflected.
    """

    name: str
    draw: Callable[[int, torch.Generator], Shape]
    held_out: bool = False
    resolved: bool = True
    cells: tuple[float, float | None] = (0.8, None)
    reach: float = 4.0
    skewed: bool = False


@dataclass(frozen=True)
class Density:
    r"""Densities of one family at their place: of :math:`z = \text{center} + \text{scale}\, x`.

    Args:
        shape: The laws of x, B rows.
        center: :math:`(B)`, in units of the grid.
        scale: :math:`(B)`, negative where the shape is reflected.
        low: Left end of the grid; the density is zero below,
        high: and above its right end.
    """

    shape: Shape
    center: Tensor
    scale: Tensor
    low: float
    high: float

    def cdf(self, z: Tensor) -> Tensor:
        """Distribution function at z, (M) or (B, M); zero and one at the ends of the grid."""
        ends = self._whole(z.new_tensor([self.low, self.high]))
        below, above = ends[:, :1], ends[:, 1:]
        inside: Tensor = (self._whole(z) - below) / (above - below)
        return inside.clamp(0.0, 1.0)

    def pdf(self, z: Tensor) -> Tensor:
        """Density at z on the grid, (M) or (B, M), per unit of the grid."""
        ends = self._whole(z.new_tensor([self.low, self.high]))
        kept = (ends[:, 1:] - ends[:, :1]) * self.scale.abs()[:, None]
        return self.shape.pdf(self._own(z)) / kept

    def masses(self, edges: Tensor) -> Tensor:
        """Mass of each cell, (B, N), for edges (N + 1) from low to high; rows sum to one."""
        return self.cdf(edges).diff(dim=1).clamp_min(0.0)

    def quantile(self, p: Tensor) -> Tensor:
        """Points z, (B, Q), below which there is the mass p, (Q), to 1e-15 of the range."""
        low = torch.full((len(self.center), len(p)), self.low, dtype=p.dtype)
        high = torch.full_like(low, self.high)
        for _ in range(50):
            middle = (low + high) / 2
            short = self.cdf(middle) < p
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (low + high) / 2

    def resolved(self, edges: Tensor) -> Tensor:
        """Whether no cell within three widths of the center is too wide, (B)."""
        near = (self.center[:, None] - edges.clamp(self.low, self.high)).abs()
        near = torch.minimum(near[:, 1:], near[:, :-1]) <= 3 * self.scale.abs()[:, None]
        inside = (edges[:-1] <= self.center[:, None]) & (self.center[:, None] <= edges[1:])
        widest = edges.diff().where(near | inside, 0.0).amax(dim=1)
        return self.shape.narrowest * self.scale.abs() >= RESOLVED_CELLS * widest

    def _own(self, z: Tensor) -> Tensor:
        return (z - self.center[:, None]) / self.scale[:, None]

    def _whole(self, z: Tensor) -> Tensor:
        below = self.shape.cdf(self._own(z))
        return torch.where(self.scale[:, None] > 0, below, 1 - below)


@dataclass(frozen=True)
class Batch:
    """Densities of several families, those of a family together.

    Args:
        edges: The grid, (N + 1).
        names: The families, in order.
        densities: One batch of densities a family.
    """

    edges: Tensor
    names: tuple[str, ...]
    densities: tuple[Density, ...]

    @property
    def family(self) -> Tensor:
        """Index into ``names`` of each density, (B)."""
        counts = torch.tensor([len(density.center) for density in self.densities])
        return torch.arange(len(self.names)).repeat_interleave(counts)

    @property
    def resolved(self) -> Tensor:
        """Whether the grid resolves each density, (B)."""
        return torch.cat([density.resolved(self.edges) for density in self.densities])

    def masses(self) -> Tensor:
        """Exact cell masses, (B, N), float64; rows sum to one."""
        return torch.cat([density.masses(self.edges) for density in self.densities])

    def pdf(self, z: Tensor) -> Tensor:
        """Densities at z, (B, M), as a point density wants them."""
        return torch.cat([density.pdf(z) for density in self.densities])

    def quantile(self, p: Tensor) -> Tensor:
        """Exact quantiles, (B, Q), at the probabilities p, (Q)."""
        return torch.cat([density.quantile(p) for density in self.densities])


def draw_batch(
    names: Sequence[str], count: int, edges: Tensor, generator: torch.Generator
) -> Batch:
    """Draw ``count`` densities, as evenly from the families as it goes.

    Args:
        names: Keys of :data:`FAMILIES`.
        count: Number of densities, at least one a family.
        edges: Cell edges, (N + 1), increasing, float64, any units.
        generator: The only source of randomness, on the CPU.

    Raises:
        ValueError: The count is smaller than the number of families.
        KeyError: A name is no family.
    """
    if count < len(names):
        raise ValueError(f"expected at least one density a family, {len(names)}; found {count}")
    counts = [count // len(names) + (i < count % len(names)) for i in range(len(names))]
    drawn = (draw(name, n, edges, generator) for name, n in zip(names, counts, strict=True))
    return Batch(edges, tuple(names), tuple(drawn))


def draw(name: str, count: int, edges: Tensor, generator: torch.Generator) -> Density:
    """Draw densities of one family and put them on the grid; arguments as :func:`draw_batch`."""
    family = FAMILIES[name]
    low, high = float(edges[0]), float(edges[-1])
    shape = family.draw(count, generator)
    scale = _scale(family, shape, (high - low) / (len(edges) - 1), high - low, generator)
    room = ((high - low) / 2 - family.reach * scale).clamp_min(0.0)
    center = (low + high) / 2 + room * _between(-1, 1, (count,), generator)
    flipped = _between(0, 1, (count,), generator) < 0.5 * family.skewed
    return Density(shape, center, torch.where(flipped, -scale, scale), low, high)


def _scale(
    family: Family, shape: Shape, cell: float, span: float, generator: torch.Generator
) -> Tensor:
    """Widths, log-uniform in what the family, the cells and the grid's length allow."""
    least, most = family.cells
    low = torch.full_like(shape.narrowest, least * cell)
    if family.resolved:
        low = torch.maximum(low, 1.2 * RESOLVED_CELLS * cell / shape.narrowest)
    high = torch.full_like(low, span / (3 * family.reach) if most is None else most * cell)
    u = _between(0, 1, low.shape, generator)
    return low * (high / low).clamp_min(1.0) ** u


def uniform_edges(points: int = 96, low: float = -15.0, high: float = 15.0) -> Tensor:
    """Edges, (points + 1), of the cells around equally spaced points from low to high."""
    half = (high - low) / (points - 1) / 2
    return torch.linspace(low - half, high + half, points + 1, dtype=torch.float64)


def random_edges(
    generator: torch.Generator, points: tuple[int, int] = (48, 512), span: float = 30.0
) -> Tensor:
    """Edges of a random grid of that many points: half uniform, half with cells that vary by 4."""
    low, high = points
    count = low + int(torch.randint(high - low + 1, (1,), generator=generator))
    phase, waves, swing = _between(0, 1, (3,), generator).tolist()
    place = torch.linspace(0, 1, count, dtype=torch.float64)
    swing = math.log(2) * max(0.0, 2 * swing - 1)  # zero for half of the grids
    widths = torch.exp(swing * torch.sin(2 * math.pi * (phase + 2 * waves * place)))
    edges = torch.cat([widths.new_zeros(1), widths.cumsum(0)])
    return span * (edges / edges[-1] - 0.5)


def _between(low: float, high: float, size: Sequence[int], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(tuple(size), generator=generator, dtype=torch.float64)


def _gaussians(
    count: int,
    most: int,
    means: tuple[float, float],
    sigmas: tuple[float, float],
    generator: torch.Generator,
    least: int = 1,
) -> GaussianSum:
    """From ``least`` to ``most`` components of log-uniform widths, none of negligible weight."""
    size = (count, most)
    kept = least + (_between(0, 1, (count, 1), generator) * (most - least + 1)).floor()
    weights = _between(0.1, 1, size, generator) * (torch.arange(most) < kept)
    widths = sigmas[0] * (sigmas[1] / sigmas[0]) ** _between(0, 1, size, generator)
    places = _between(*means, size, generator)
    return GaussianSum(weights / weights.sum(dim=1, keepdim=True), places, widths)


def _few(count: int, generator: torch.Generator) -> Shape:
    return _gaussians(count, 4, (-1.5, 1.5), (0.2, 1.0), generator)


def _many(count: int, generator: torch.Generator) -> Shape:
    return _gaussians(count, 12, (-2.0, 2.0), (0.2, 0.8), generator, least=6)


def _far(count: int, generator: torch.Generator) -> Shape:
    modes = _gaussians(count, 2, (0.0, 0.0), (0.12, 0.3), generator, least=2)
    half = _between(0.8, 1.4, (count, 1), generator)
    apart = torch.cat([-half, half], dim=1)
    return GaussianSum(modes.weights, apart, modes.sigmas)


def _sharp(count: int, generator: torch.Generator) -> Shape:
    return _gaussians(count, 3, (-3.0, 3.0), (0.3, 1.0), generator)


def _spiky(count: int, generator: torch.Generator) -> Shape:
    broad = _gaussians(count, 1, (0.0, 0.0), (1.0, 1.0), generator)
    spikes = _gaussians(count, 2, (-2.0, 2.0), (0.01, 0.1), generator)
    share = _between(0.05, 0.5, (count, 1), generator)
    parts = ((broad, 1 - share), (spikes, share))
    return GaussianSum(
        torch.cat([part.weights * weight for part, weight in parts], dim=1),
        torch.cat([part.means for part, _ in parts], dim=1),
        torch.cat([part.sigmas for part, _ in parts], dim=1),
    )


def _max_pair(count: int, generator: torch.Generator) -> Shape:
    pair = _gaussians(count, 2, (-1.2, 1.2), (0.3, 1.0), generator)
    return MaximumOfPair(pair.means, pair.sigmas, _between(-0.9, 0.9, (count,), generator))


def _max_several(count: int, generator: torch.Generator) -> Shape:
    several = _gaussians(count, 4, (-1.5, 1.0), (0.3, 1.0), generator)
    return MaximumOfSeveral(several.means, several.sigmas, _between(0, 0.6, (count,), generator))


def _skew_normal(count: int, generator: torch.Generator) -> Shape:
    return SkewNormal(_between(0.5, 8, (count,), generator))


def _student_t(count: int, generator: torch.Generator) -> Shape:
    return StudentT(_between(3, 11, (count,), generator).floor())


def _log_normal(count: int, generator: torch.Generator) -> Shape:
    return LogNormal(_between(0.2, 0.8, (count,), generator))


def _gamma(count: int, generator: torch.Generator) -> Shape:
    return Gamma(torch.exp(_between(math.log(1.5), math.log(20), (count,), generator)))


def _exponential(count: int, generator: torch.Generator) -> Shape:
    return ExponentialGaussian(_between(0.4, 0.97, (count,), generator))


def _triangular(count: int, generator: torch.Generator) -> Shape:
    return Triangular(_between(-2.2, 2.2, (count,), generator))


def _uniform(count: int, generator: torch.Generator) -> Shape:
    return Uniform(_between(1.5, 2, (count,), generator))


FAMILIES = {
    family.name: family
    for family in (
        Family("mixture_few", _few),
        Family("mixture_many", _many),
        Family("bimodal_far", _far, reach=2.0),
        Family("max_pair", _max_pair),
        Family("skew_normal", _skew_normal, skewed=True),
        Family("student_t", _student_t),
        Family("log_normal", _log_normal, skewed=True),
        Family("uniform", _uniform, reach=2.0),
        Family("sharp", _sharp, resolved=False, cells=(0.05, 0.5)),
        Family("spiky", _spiky, resolved=False, cells=(3.0, None)),
        Family("max_several", _max_several, held_out=True),
        Family("gamma", _gamma, held_out=True, skewed=True),
        Family("exponential_gaussian", _exponential, held_out=True, skewed=True),
        Family("triangular", _triangular, held_out=True, reach=2.5),
    )
}
TRAINED = tuple(name for name, family in FAMILIES.items() if not family.held_out)
HELD_OUT = tuple(name for name, family in FAMILIES.items() if family.held_out)
MAXIMA = ("max_pair", "max_several")
