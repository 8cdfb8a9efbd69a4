"""A learned start and damped Fisher-scoring steps: mixtures of gridded densities in a few steps."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernels.gmm.gridded import Gridded, Standardization
from kernels.gmm.mixture import Mixture
from kernels.gmm.transform import ParameterTransform

#: Probability that is added to every cell: what a model does not see at all has a finite price.
FLOOR = 1e-13
MAX_COMPONENTS = 16
_LOG_SQRT_2PI = 0.9189385332046727


@dataclass(frozen=True)
class RefinerConfig:
    """Sizes of the network.

    Attributes:
        width: Of the hidden layers.
        blocks: Refining steps.
        levels: Quantiles that the network sees.
        bins: Cells of the standard grid whose masses it sees.
    """

    width: int = 128
    blocks: int = 4
    levels: int = 32
    bins: int = 64


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
    x = x.clamp(-12.0, 12.0)
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
    slopes = weights.unsqueeze(1) * torch.stack([mass, -density.diff(dim=-1), -(x * density).diff(dim=-1)], 1)
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


class RefineBlock(nn.Module):
    r"""One damped Fisher-scoring step in local coordinates.

    .. math:: (F + \lambda C)\, s = g, \qquad
              \theta \leftarrow \theta + \eta\, \min(1, r / |s|_\infty)\, s

    C is the information of the complete data. Without damping this is Fisher scoring, which
    converges quadratically where the model can fit; with much it is a short step of EM, whose
    preconditioner C is. Learned are the damping, its dependence on the divergence, the bound r of
    the step, and the step sizes.

    References:
        Titterington, *Recursive parameter estimation using incomplete data*, JRSS B 46, 1984.
    """

    def __init__(self) -> None:
        super().__init__()
        self.damping = nn.Parameter(torch.tensor([-1.0, 0.3]))
        self.bound = nn.Parameter(torch.zeros(()))
        self.sizes = nn.Parameter(torch.zeros(3))

    def log_damping(self, now: Tensor, features: Tensor) -> Tensor:
        """(B), of the divergence (B) and what the network adds (B)."""
        slope = self.damping[1] * (now.detach().clamp(min=0) + 1e-6).log()
        return (self.damping[0] + slope + features).clamp(-9.0, 5.0)

    def forward(self, m: Mixture, at: Scores, log_damping: Tensor) -> Mixture:
        """A mixture from another, by the scores there; not yet put in order."""
        step = solve(at, log_damping.exp().unsqueeze(-1))
        bound = 1.5 * torch.exp(torch.tanh(self.bound))
        step = step * (bound / step.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        weights, means, sigmas = step.chunk(3, dim=-1)
        sizes = 1 + 0.5 * torch.tanh(self.sizes)
        return Mixture(
            (m.log_weights + sizes[0] * weights).log_softmax(dim=-1),
            m.means + sizes[1] * means * m.sigmas,
            m.sigmas * (sizes[2] * sigmas).exp(),
        )


def solve(at: Scores, damping: Tensor) -> Tensor:
    """The damped step (B, 3K); where the matrix is singular in the precision, the EM-like one."""
    matrix = at.information + torch.diag_embed(damping * at.complete + 1e-7)
    factor, info = torch.linalg.cholesky_ex(matrix)
    failed = (info != 0).unsqueeze(-1)
    factor = torch.where(failed.unsqueeze(-1), torch.eye(matrix.shape[-1]).to(matrix), factor)
    step = torch.cholesky_solve(at.gradient.unsqueeze(-1), factor).squeeze(-1)
    plain = at.gradient / ((1 + damping) * at.complete + 1e-7)
    return torch.where(failed, plain, step)


def cumulative(gridded: Gridded) -> Tensor:
    """Distribution function at the edges, (B, N+1), from zero to one."""
    return nn.functional.pad(gridded.masses.cumsum(dim=-1), (1, 0)).clamp(0, 1)


def interpolated(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear y (B, M) over increasing x (B, M) at points (B, Q); constant beyond."""
    x, at = x.contiguous(), at.contiguous()
    right = torch.searchsorted(x.detach(), at.detach(), right=True).clamp(1, x.shape[-1] - 1)
    x0, x1 = x.gather(-1, right - 1), x.gather(-1, right)
    y0, y1 = y.gather(-1, right - 1), y.gather(-1, right)
    share = (at - x0) / (x1 - x0).clamp(min=1e-20)
    return y0 + share.clamp(0, 1) * (y1 - y0)


class InitNet(nn.Module):
    """Start of the refinement: one network for all grids and all numbers of components.

    It sees quantiles and masses of standard cells, which any grid has, in standard coordinates.
    Means are put at learned *levels of probability*: in order and where there is mass.

    Args:
        config: Sizes.
    """

    normal: Tensor
    places: Tensor

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.register_buffer("normal", torch.linspace(-3.5, 3.5, config.levels))
        self.register_buffer("places", torch.linspace(-4.0, 4.0, config.bins + 1))
        inputs = 2 * config.levels + config.bins
        self.first = nn.Linear(inputs, config.width)
        self.count = nn.Embedding(MAX_COMPONENTS, config.width)
        self.second = nn.Linear(config.width, config.width)
        sizes = [3 * k + 1 + config.blocks for k in range(1, MAX_COMPONENTS + 1)]
        self.heads = nn.ModuleList(nn.Linear(config.width, size) for size in sizes)
        nn.init.zeros_(self.count.weight)
        for head in self.heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def features(self, gridded: Gridded, cdf: Tensor) -> Tensor:
        """What the network sees of densities in standard coordinates, (B, F)."""
        edges, size = gridded.edges, len(gridded.masses)
        levels = torch.special.ndtr(self.normal).expand(size, -1)
        quantiles = interpolated(cdf, edges, levels)
        below = interpolated(edges, cdf, self.places.expand(size, -1))
        widths = (gridded.masses * edges.diff(dim=-1).log()).sum(dim=-1, keepdim=True)
        return torch.cat(
            [
                (quantiles - self.normal).clamp(-8, 8),
                0.5 * (quantiles.diff(dim=-1) + 1e-3).log(),
                0.5 * widths,
                (below.diff(dim=-1).clamp(min=0) * len(self.places)).sqrt() - 0.5,
            ],
            dim=-1,
        )

    def forward(
        self, gridded: Gridded, components: int, transform: ParameterTransform
    ) -> tuple[Mixture, Tensor]:
        """The start, and log dampings (B, blocks) for the steps."""
        cdf = cumulative(gridded)
        hidden = self.first(self.features(gridded, cdf)) + self.count.weight[components - 1]
        hidden = self.second(nn.functional.silu(hidden))
        out = self.heads[components - 1](nn.functional.silu(hidden))
        k = components
        places, weights, scales, dampings = out.split([k + 1, k, k, out.shape[-1] - 3 * k - 1], -1)
        levels = bounded(places, 5.0).softmax(dim=-1).cumsum(dim=-1)[:, :-1]
        start = Mixture(
            bounded(weights, 5.0).log_softmax(dim=-1),
            interpolated(cdf, gridded.edges, levels),
            (bounded(scales, 4.0) + math.log(1.2 / components**0.8)).exp(),
        )
        return transform.settle(start), bounded(dampings, 5.0)


def bounded(x: Tensor, most: float) -> Tensor:
    """x near zero, and never further than ``most``."""
    return most * torch.tanh(x / most)


class Refiner(nn.Module):
    """The learned start, then blocks; a step that raises the divergence is taken back.

    Args:
        config: Sizes.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.start = InitNet(config)
        self.blocks = nn.ModuleList(RefineBlock() for _ in range(config.blocks))

    def forward(self, gridded: Gridded, components: int) -> list[Mixture]:
        """The start and the mixture after each block, in the coordinates of the densities."""
        standard = Standardization.of(gridded)
        inside = standard.forward(gridded)
        transform = ParameterTransform.of(inside)
        m, dampings = self.start(inside, components, transform)
        result, best, at = [m], m, scores(inside, m)
        rejected = torch.zeros_like(at.divergence)
        for i, block in enumerate(self.blocks):
            log_damping = block.log_damping(at.divergence, dampings[:, i] + 1.5 * rejected)
            m = transform.settle(block(best, at, log_damping))
            new = scores(inside, m)
            worse = new.divergence > at.divergence
            rejected = torch.where(worse, rejected + 1, torch.zeros_like(rejected))
            best = Mixture(*(_keep(worse, old, own) for old, own in zip(best, m, strict=True)))
            at = Scores(*(_keep(worse, old, own) for old, own in zip(at, new, strict=True)))
            result.append(best)
        return [standard.inverse(m) for m in result]


def _keep(which: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(which.reshape(-1, *[1] * (old.ndim - 1)), old, new)
