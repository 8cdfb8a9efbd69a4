"""The learned start: one network for all grids and all numbers of components."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture
from kernels.gmm.start import cumulative, interpolated
from kernels.gmm.transform import ParameterTransform

MAX_COMPONENTS = 16


class InitNet(nn.Module):
    """Start of the refinement, and advice on the damping of its steps.

    It sees quantiles and masses of standard cells, which any grid has, in standard coordinates.
    Means are put at learned *levels of probability*: in order and where there is mass.

    Args:
        width: Of the hidden layers.
        blocks: Steps to advise on.
        levels: Quantiles that it sees.
        bins: Standard cells whose masses it sees.
    """

    normal: Tensor
    places: Tensor

    def __init__(self, width: int, blocks: int, levels: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("normal", torch.linspace(-3.5, 3.5, levels), persistent=False)
        self.register_buffer("places", torch.linspace(-4.0, 4.0, bins + 1), persistent=False)
        self.first = nn.Linear(2 * levels + bins, width)
        self.count = nn.Embedding(MAX_COMPONENTS, width)
        self.second = nn.Linear(width, width)
        heads = [nn.Linear(width, 3 * k + 1 + blocks) for k in range(1, MAX_COMPONENTS + 1)]
        for parameter in (self.count.weight, *(p for head in heads for p in head.parameters())):
            nn.init.zeros_(parameter)
        self.heads = nn.ModuleList(heads)

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

    def head(self, components: int) -> nn.Linear:
        """The last layer for a number of components.

        Raises:
            ValueError: None, or more than MAX_COMPONENTS.
        """
        if not 1 <= components <= MAX_COMPONENTS:
            raise ValueError(f"components are 1 to {MAX_COMPONENTS}, found {components}")
        return cast(nn.Linear, self.heads[components - 1])

    def forward(
        self, gridded: Gridded, components: int, transform: ParameterTransform
    ) -> tuple[Mixture, Tensor]:
        """A start for densities in standard coordinates, and log dampings (B, blocks).

        Raises:
            ValueError: No components, or more than MAX_COMPONENTS.
        """
        head = self.head(components)
        cdf, k = cumulative(gridded), components
        features = self.features(gridded, cdf).to(self.first.weight.dtype)
        hidden = silu(self.first(features) + self.count.weight[k - 1])
        out = head(silu(self.second(hidden)))
        places, weights, scales, dampings = out.tensor_split([k + 1, 2 * k + 1, 3 * k + 1], dim=-1)
        levels = bounded(places, 5.0).softmax(dim=-1).cumsum(dim=-1)[:, :-1]
        start = Mixture(
            bounded(weights, 5.0).log_softmax(dim=-1),
            interpolated(cdf, gridded.edges, levels),
            (bounded(scales, 4.0) + math.log(1.2 / k**0.8)).exp(),
        )
        return transform.settle(start), bounded(dampings, 5.0)


def bounded(x: Tensor, most: float) -> Tensor:
    """x near zero, and never further than ``most``."""
    return most * torch.tanh(x / most)
