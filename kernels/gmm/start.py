"""Where classical fits start from: quantiles of the density, at several levels and widths."""

import torch
from torch import Tensor

from kernels.gmm.em import sigma_bounds
from kernels.gmm.gridded import Gridded, gridded_moments
from kernels.gmm.mixture import Mixture

#: Widths of the first starts, in standard deviations over the root of K or, negative, in gaps
#: between the means; and whether their levels reach into the tails.
_RECIPES = ((1.0, True), (1.0, False), (-0.8, True), (2.0, False), (0.6, False), (-0.8, False))


def gridded_quantile(gridded: Gridded, p: Tensor) -> Tensor:
    """Points (B, M) below which a share p (B, M) or (M) lies, masses spread over their cells."""
    below = torch.nn.functional.pad(gridded.masses.cumsum(dim=-1), (1, 0))
    rows, cells = gridded.masses.shape
    edges = gridded.edges.expand(rows, -1)
    p = p.expand(rows, p.shape[-1]).contiguous()
    right = torch.searchsorted(below, p).clamp(1, cells)
    low, high = below.gather(1, right - 1), below.gather(1, right)
    share = ((p - low) / (high - low).clamp(min=torch.finfo(p.dtype).tiny)).clamp(0, 1)
    left_edge, right_edge = edges.gather(1, right - 1), edges.gather(1, right)
    return left_edge + share * (right_edge - left_edge)


def quantile_start(gridded: Gridded, components: int, number: int = 0) -> Mixture:
    """Equal weights; means at quantiles, the same levels for every density.

    Args:
        gridded: What is to be fitted.
        components: K.
        number: Which start. The first few are fixed recipes, in the order in which they lead to
            good fits; those beyond have random levels and widths, drawn from the number alone, so
            that a density's starts do not depend on its batch.

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
    low, high = sigma_bounds(gridded)
    sigmas = torch.minimum(torch.maximum(sigmas, 2 * low), high)
    return Mixture(torch.full_like(means, 1 / components).log(), means, sigmas)


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
