"""Where classical fits start from: quantiles of the density, at several levels and widths."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from kernels.gmm.em import SigmaBounds, sigma_bounds
from kernels.gmm.gridded import Gridded, gridded_moments
from kernels.gmm.mixture import Mixture

#: Of several starts, evaluations of each, then of the better half...
FIRST, SECOND = 12, 20
#: ...and the first damping of a descent that goes on.
LATER_DAMPING = 1e-2
#: Widths of the first starts, in standard deviations over the root of K or, negative, in gaps
#: between the means; and whether their levels reach into the tails.
_RECIPES = ((1.0, True), (1.0, False), (-0.8, True), (2.0, False), (0.6, False), (-0.8, False))


def cumulative(gridded: Gridded) -> Tensor:
    """Distribution function at the edges, (B, N+1), from zero to one."""
    return pad(gridded.masses.cumsum(dim=-1), (1, 0)).clamp(0, 1)


def interpolated(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear y (B, M) over increasing x (B, M) at points (B, Q); constant beyond."""
    x, at = x.contiguous(), at.to(x.dtype).contiguous()
    right = torch.searchsorted(x.detach(), at.detach(), right=True).clamp(1, x.shape[-1] - 1)
    x0, x1 = x.gather(-1, right - 1), x.gather(-1, right)
    y0, y1 = y.gather(-1, right - 1), y.gather(-1, right)
    share = (at - x0) / (x1 - x0).clamp(min=1e-20)
    return y0 + share.clamp(0, 1) * (y1 - y0)


def gridded_quantile(gridded: Gridded, p: Tensor) -> Tensor:
    """Points (B, M) below which a share p (B, M) or (M) lies, masses spread over their cells."""
    rows = len(gridded.masses)
    edges = gridded.edges.expand(rows, -1)
    return interpolated(cumulative(gridded), edges, p.expand(rows, p.shape[-1]))


def quantile_start(
    gridded: Gridded, components: int, number: int = 0, bounds: SigmaBounds | None = None
) -> Mixture:
    """Equal weights; means at quantiles, the same levels for every density.

    Args:
        gridded: What is to be fitted.
        components: K.
        number: Which start. The first few are fixed recipes, in the order in which they lead to
            good fits; those beyond have random levels and widths, drawn from the number alone, so
            that a density's starts do not depend on its batch.
        bounds: Of sigma, if not those of the grid.

    Returns:
        (B, K), means in order.
    """
    masses = gridded.masses
    levels, widths = _levels_and_widths(components, number)
    means = gridded_quantile(gridded, levels.to(masses))
    spread = gridded_moments(gridded)[1].sqrt().unsqueeze(-1)
    sigmas = spread * widths.abs().to(masses)
    if components > 1 and bool((widths < 0).all()):
        gaps = means.diff(dim=-1)
        gaps = torch.cat([gaps[:, :1], 0.5 * (gaps[:, 1:] + gaps[:, :-1]), gaps[:, -1:]], dim=-1)
        sigmas = widths.abs().to(masses) * gaps
    low, high = sigma_bounds(gridded) if bounds is None else bounds
    sigmas = torch.minimum(torch.maximum(sigmas, 2 * low), high)
    return Mixture(torch.full_like(means, 1 / components).log(), means, sigmas)


@lru_cache(maxsize=32)
def recipes(components: int, starts: int) -> NDArray[np.float64]:
    """Levels, and widths as in ``_RECIPES``, of the first starts: (starts, 2, components)."""
    found = np.empty((starts, 2, components))
    for number in range(starts):
        found[number] = torch.stack(_levels_and_widths(components, number)).numpy()
    return found


def _levels_and_widths(components: int, number: int) -> tuple[Tensor, Tensor]:
    ranks = torch.arange(components, dtype=torch.float64)
    if number < len(_RECIPES):
        width, tails = _RECIPES[number]
        levels = (ranks + 0.5) / components
        if tails:
            # As the extremes of a sample of a few thousand are, not those of one of size K.
            levels = 0.5 - 0.5 * torch.cos(torch.pi * levels)
        scale = width / components**0.5 if width > 0 else width
        return levels, torch.full_like(levels, scale)
    generator = torch.Generator().manual_seed(number)
    levels = torch.rand(components, generator=generator, dtype=torch.float64).sort().values
    widths = torch.randn(components, generator=generator, dtype=torch.float64)
    return levels, (0.7 * widths - 1.0).exp()
