"""The learned refiner: a start by a network, then damped Fisher-scoring steps."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kernels.gmm.fisher import Scores, scores, solve
from kernels.gmm.gridded import Gridded, Standardization
from kernels.gmm.initnet import InitNet
from kernels.gmm.mixture import Mixture
from kernels.gmm.orientation import Orientation
from kernels.gmm.transform import ParameterTransform

#: Added to the log damping for each step in a row that was taken back.
CAUTION = 1.5
#: Limits of the log damping.
LEAST_DAMPING, MOST_DAMPING = -9.0, 5.0


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

    @property
    def longest(self) -> Tensor:
        """The bound r, from 0.55 to 4.1 sigmas."""
        return 1.5 * torch.tanh(self.bound).exp()

    @property
    def step_sizes(self) -> Tensor:
        """Of log weights, means and log sigmas, (3), from 0.5 to 1.5."""
        return 1 + 0.5 * torch.tanh(self.sizes)

    def log_damping(self, now: Tensor, features: Tensor) -> Tensor:
        """(B), of the divergence (B) and what the network adds (B)."""
        slope = self.damping[1] * (now.detach().clamp(min=0) + 1e-6).log()
        return (self.damping[0] + slope + features).clamp(LEAST_DAMPING, MOST_DAMPING)

    def forward(self, m: Mixture, at: Scores, log_damping: Tensor) -> Mixture:
        """A mixture from another, by the scores there; not yet put in order."""
        step = solve(at, log_damping.exp().unsqueeze(-1))
        most = torch.maximum(step.abs().amax(dim=-1, keepdim=True), self.longest)
        weights, means, sigmas = (step * (self.longest / most)).chunk(3, dim=-1)
        sizes = self.step_sizes
        return Mixture(
            (m.log_weights + sizes[0] * weights).log_softmax(dim=-1),
            m.means + sizes[1] * means * m.sigmas,
            m.sigmas * (sizes[2] * sigmas).exp(),
        )


class Refiner(nn.Module):
    """The learned start, then blocks; a step that raises the divergence is taken back.

    Args:
        config: Sizes.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.start = InitNet(config.width, config.blocks, config.levels, config.bins)
        self.blocks = nn.ModuleList(RefineBlock() for _ in range(config.blocks))

    @property
    def steps(self) -> list[RefineBlock]:
        """The blocks, typed."""
        return cast(list[RefineBlock], list(self.blocks))

    def forward(self, gridded: Gridded, components: int) -> list[Mixture]:
        """The start and the mixture after each block, in the coordinates of the densities."""
        standard = Standardization.of(gridded)
        inside = standard.forward(gridded)
        orientation = Orientation.of(inside)
        inside = orientation.forward(inside)
        transform = ParameterTransform.of(inside)
        m, dampings = self.start(inside, components, transform)
        result, best, at = [m], m, scores(inside, m)
        rejected = torch.zeros_like(at.divergence)
        for i, block in enumerate(self.steps):
            log_damping = block.log_damping(at.divergence, dampings[:, i] + CAUTION * rejected)
            m = transform.settle(block(best, at, log_damping))
            new = scores(inside, m)
            worse = ~(new.divergence <= at.divergence)  # NaN is worse
            rejected = torch.where(worse, rejected + 1, torch.zeros_like(rejected))
            best = Mixture(*(_keep(worse, old, own) for old, own in zip(best, m, strict=True)))
            at = Scores(*(_keep(worse, old, own) for old, own in zip(at, new, strict=True)))
            result.append(best)
        return [standard.inverse(orientation.inverse(m)) for m in result]


def _keep(which: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """The old rows where ``which``, (B), the new ones elsewhere."""
    return torch.where(which.reshape(-1, *[1] * (old.ndim - 1)), old, new)
