"""Expectation-maximization for gridded densities, at points or by the masses of cells."""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.gmm.gridded import Gridded, Kind
from kernels.gmm.mixture import (
    Mixture,
    log_component_densities,
    log_component_masses,
    log_interval_mass,
    standardized,
)

_LOG_SQRT_2PI = 0.9189385332046727

#: Least sigma of a fit to densities at points, in spacings: less is invisible between points.
POINT_FLOOR = 0.6
#: Least sigma of a fit to cell masses, in widths of the narrowest cell. A component of this width
#: gives one cell all of its mass, or two neighbors any shares of it: less could do no more.
CELL_FLOOR = 0.05


class SigmaBounds(NamedTuple):
    """Least and greatest sigma, each (B, 1) or (1, 1), in the unit of the edges."""

    low: Tensor
    high: Tensor


def sigma_bounds(gridded: Gridded) -> SigmaBounds:
    """Bounds that the grid and the meaning of its values set: the grid's whole width above."""
    width = gridded.edges.diff(dim=-1).amin(dim=-1, keepdim=True)
    spread = gridded.edges[..., -1:] - gridded.edges[..., :1]
    return SigmaBounds(sigma_floor(gridded.kind) * width, spread)


def sigma_floor(kind: Kind) -> float:
    """Least sigma in widths of the narrowest cell."""
    return POINT_FLOOR if kind == "point_density" else CELL_FLOOR


class _Sums(NamedTuple):
    """Expected mass (B, K) of the components, and sums of u and u² in their coordinates."""

    mass: Tensor
    first: Tensor
    second: Tensor


def responsibilities(m: Mixture, z: Tensor) -> Tensor:
    r"""Posterior probabilities :math:`w_k f_k(z_i) / f(z_i)` at points (B, N), (B, N, K)."""
    return log_component_densities(m, z).softmax(dim=-1)


def cell_responsibilities(m: Mixture, edges: Tensor) -> Tensor:
    """Share of each component in the mass of each cell, (B, N, K)."""
    return log_component_masses(m, edges).softmax(dim=-1)


def em_step_points(m: Mixture, masses: Tensor, z: Tensor, bounds: SigmaBounds) -> Mixture:
    r"""One step that never lowers :math:`\sum_i w_i \log f(z_i)`.

    Args:
        m: Mixtures, :math:`(B, K)`.
        masses: Weights of the points, :math:`(B, N)`, rows sum to one.
        z: Points, :math:`(B, N)` or :math:`(1, N)`.
        bounds: Of sigma.

    Without a floor on sigma the likelihood has no bound: a component may settle on one point.
    """
    weight = masses.unsqueeze(-1) * responsibilities(m, z)
    u = standardized(m, z)
    sums = _Sums(weight.sum(dim=-2), (weight * u).sum(dim=-2), (weight * u.square()).sum(dim=-2))
    return _maximize(m, sums, bounds)


def em_step_cells(m: Mixture, masses: Tensor, edges: Tensor, bounds: SigmaBounds) -> Mixture:
    r"""One step that never lowers the binned likelihood :math:`\sum_i w_i \log p_i`.

    The complete data are the positions within the cells: the step uses the moments of each
    component truncated to each cell.

    Args:
        m: Mixtures, :math:`(B, K)`.
        masses: Cell masses, :math:`(B, N)`, rows sum to one.
        edges: :math:`(B, N+1)` or :math:`(1, N+1)`.
        bounds: Of sigma.

    References:
        McLachlan and Jones, *Fitting mixture models to grouped and truncated data via the EM
        algorithm*, Biometrics 44, 1988.
    """
    z = standardized(m, edges)
    center = 0.5 * (z[..., 1:, :] + z[..., :-1, :])
    width = edges.diff(dim=-1).unsqueeze(-1) / m.sigmas.unsqueeze(-2)
    log_mass = log_interval_mass(center.abs(), width)
    share = (m.log_weights.unsqueeze(-2) + log_mass).softmax(dim=-1)
    first, second = _truncated_moments(center, width, log_mass)
    weight = masses.unsqueeze(-1) * share
    sums = ((weight * factor).sum(dim=-2) for factor in (torch.ones_like(first), first, second))
    return _maximize(m, _Sums(*sums), bounds)


def _truncated_moments(center: Tensor, width: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of u and of u² for a standard normal u in each cell."""
    c = center.abs()
    low, high = c - 0.5 * width, c + 0.5 * width
    # Density at the end nearer to zero, over the mass; the other end is the first times the decay.
    ratio = (-0.5 * low.square() - _LOG_SQRT_2PI - log_mass).exp()
    decay = torch.expm1(-c * width)
    return -center.sign() * ratio * decay, 1 - ratio * (width + high * decay)


def _maximize(m: Mixture, sums: _Sums, bounds: SigmaBounds) -> Mixture:
    """The M-step; each sigma clamped, which is the maximum under the bounds."""
    tiny = torch.finfo(sums.mass.dtype).tiny
    alive = sums.mass > tiny
    mass = sums.mass.where(alive, torch.ones_like(sums.mass))
    shift = sums.first / mass
    spread = sums.second / mass - shift.square()
    # The square root of zero has no gradient; the floor hides the value.
    spread = spread.where(spread > 0, torch.full_like(spread, tiny))
    sigmas = torch.minimum(torch.maximum(m.sigmas * spread.sqrt(), bounds.low), bounds.high)
    return Mixture(
        sums.mass.clamp(min=tiny).log() - sums.mass.sum(dim=-1, keepdim=True).log(),
        torch.where(alive, m.means + m.sigmas * shift, m.means),
        torch.where(alive, sigmas, m.sigmas),
    )
