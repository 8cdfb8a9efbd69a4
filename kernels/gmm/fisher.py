"""Scores and Fisher information of mixtures on cells, and the damped scoring step."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture

#: Probability that is added to every cell: what a model does not see at all has a finite price.
FLOOR = 1e-13
#: Added to the diagonal of the information: a component may have no weight left.
RIDGE = 1e-7
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
#: Further out than so many sigmas nothing is above the floor.
FAR = 12.0


class Scores(NamedTuple):
    """A mixture's divergence, its gradient and the Fisher information, in local coordinates.

    Local coordinates are log weights, means in sigmas, and log sigmas: (B, 3K) in that order.

    Attributes:
        divergence: Binned, (B).
        gradient: Of minus the divergence, (B, 3K).
        information: Of one draw of a cell, (B, 3K, 3K).
        complete: Diagonal of the information of a draw whose component is known, (B, 3K).
    """

    divergence: Tensor
    gradient: Tensor
    information: Tensor
    complete: Tensor


def _tails(m: Mixture, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standard edges (B, K, N+1), density there, and mass of each cell (B, K, N)."""
    x = (edges.unsqueeze(-2) - m.means.unsqueeze(-1)) / m.sigmas.unsqueeze(-1)
    x = x.clamp(-FAR, FAR)
    density = (-0.5 * x.square() - _LOG_SQRT_2PI).exp()
    # Each edge gives the smaller of its two tails: the difference keeps its digits on both sides.
    tail = 0.5 * torch.erfc(x.abs() * math.sqrt(0.5))
    signed, above = torch.where(x < 0, tail, -tail), (x >= 0).to(x.dtype)
    return x, density, signed.diff(dim=-1) + above.diff(dim=-1)


def cell_masses(m: Mixture, edges: Tensor) -> Tensor:
    """Masses of the cells, (B, N), plus FLOOR; cheaper than in logarithms, and blind below it."""
    mass = _tails(m, edges)[2]
    return (m.log_weights.exp().unsqueeze(-1) * mass).sum(dim=-2) + FLOOR


def divergence(gridded: Gridded, m: Mixture) -> Tensor:
    """Binned divergence in nats, (B), by :func:`cell_masses`."""
    entropy = torch.xlogy(gridded.masses, gridded.masses).sum(dim=-1)
    return entropy - (gridded.masses * cell_masses(m, gridded.edges).log()).sum(dim=-1)


def scores(gridded: Gridded, m: Mixture) -> Scores:
    r"""What a scoring step needs.

    With :math:`q_{ij} = \partial p_i / \partial \theta_j`,

    .. math:: g_j = \sum_i \frac{w_i}{p_i} q_{ij}, \qquad
              F_{jk} = \sum_i \frac{q_{ij} q_{ik}}{p_i}

    The weights count as free intensities, whose sum costs its excess: so the gradient has -w_k,
    and F no null direction.
    """
    x, density, mass = _tails(m, gridded.edges)
    weights = m.log_weights.exp().unsqueeze(-1)
    slopes = weights.unsqueeze(1) * torch.stack(
        [mass, -density.diff(dim=-1), -(x * density).diff(dim=-1)], 1
    )
    masses = slopes[:, 0].sum(dim=-2, keepdim=True) + FLOOR
    q = slopes.flatten(1, 2)
    ratio = gridded.masses.unsqueeze(-2) / masses
    gradient = (ratio * q).sum(dim=-1)
    counts = gradient[:, : m.means.shape[-1]]
    complete = torch.maximum(counts, weights.squeeze(-1))
    entropy = torch.xlogy(gridded.masses, gridded.masses).sum(dim=-1)
    return Scores(
        entropy - (gridded.masses * masses.squeeze(-2).log()).sum(dim=-1),
        torch.cat([counts - weights.squeeze(-1), gradient[:, m.means.shape[-1] :]], dim=-1),
        (q / masses) @ q.mT,
        torch.cat([complete, complete, 2 * complete], dim=-1),
    )


def solve(at: Scores, damping: Tensor) -> Tensor:
    """The damped step (B, 3K); where the matrix is singular in the precision, the EM-like one."""
    matrix = at.information + torch.diag_embed(damping * at.complete + RIDGE)
    factor, info = torch.linalg.cholesky_ex(matrix)
    failed = (info != 0).unsqueeze(-1)
    factor = torch.where(failed.unsqueeze(-1), torch.eye(matrix.shape[-1]).to(matrix), factor)
    step = torch.cholesky_solve(at.gradient.unsqueeze(-1), factor).squeeze(-1)
    plain = at.gradient / ((1 + damping) * at.complete + RIDGE)
    return torch.where(failed, plain, step)
