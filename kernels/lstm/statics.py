"""From static features to the first state, an embedding, and slots to attend to."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernels.lstm.heads import ALIKE, SiteTerms
from kernels.lstm.settings import LSTMSettings


class Statics(NamedTuple):
    """What the static features become.

    Attributes:
        state: First h and c, (B, H) each.
        embedding: (B, E), for the variants that read one.
        slots: (B, S, E), one a static feature, for the variants that attend.
        site: What the carbon head reads of them.
    """

    state: tuple[Tensor, Tensor]
    embedding: Tensor | None
    slots: Tensor | None
    site: SiteTerms = ALIKE


class FeatureSlots(nn.Module):
    r"""One slot a static feature: :math:`\mathrm{slot}_j = \tanh(x_j u_j + w_j)`.

    Args:
        features: S.
        width: E.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(features, width))
        self.place = nn.Parameter(torch.randn(features, width))

    def forward(self, x: Tensor) -> Tensor:
        """Static features (B, S) to slots (B, S, E)."""
        return torch.tanh(x.unsqueeze(-1) * self.direction + self.place)


def alike(features: int, outputs: int) -> nn.Linear:
    """A layer that says zero of every site until it has learned."""
    layer = nn.Linear(features, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class StaticNetwork(nn.Module):
    """A network of hidden layers with a head for each use of the static features.

    What the settings do not use is not made, so that parameters count what matters.
    """

    def __init__(self, settings: LSTMSettings) -> None:
        super().__init__()
        self.hidden = settings.hidden
        trunk = settings.initial_state or settings.embeds or settings.reads_sites
        # Drawn in any case: what a seed makes of the weights after it stays the same.
        layers = nn.Sequential(*_hidden_layers(settings))
        self.trunk = layers if trunk else None
        width = settings.static_hidden
        self.to_state = nn.Linear(width, 2 * settings.hidden) if settings.initial_state else None
        self.to_embedding = nn.Linear(width, settings.embedding) if settings.embeds else None
        slots = FeatureSlots(settings.static, settings.embedding) if settings.attends else None
        self.to_slots = slots
        self.to_levels = alike(settings.static + width, 3) if settings.site_levels else None
        head = settings.head_hidden
        self.to_modulation = alike(width, 2 * head) if head else None

    def forward(self, x: Tensor) -> Statics:
        """Static features (B, D) to all their uses."""
        trunk = None if self.trunk is None else self.trunk(x)
        zeros = x.new_zeros(2, len(x), self.hidden)
        h, c = zeros.unbind(0) if self.to_state is None else self.to_state(trunk).chunk(2, dim=-1)
        return Statics(
            # h is bounded in the recurrence, and is from the start.
            (torch.tanh(h), c),
            None if self.to_embedding is None else self.to_embedding(trunk),
            None if self.to_slots is None else self.to_slots(x),
            self._site_terms(x, trunk),
        )

    def _site_terms(self, x: Tensor, trunk: Tensor | None) -> SiteTerms:
        if trunk is None:
            return ALIKE
        return SiteTerms(
            None if self.to_levels is None else self.to_levels(torch.cat((x, trunk), dim=-1)),
            None if self.to_modulation is None else self.to_modulation(trunk),
        )


def _hidden_layers(settings: LSTMSettings) -> Iterator[nn.Module]:
    width = settings.static_hidden
    for layer in range(settings.static_layers):
        yield nn.Linear(width if layer else settings.static, width)
        if settings.static_norm:
            yield nn.BatchNorm1d(width)
        yield nn.Tanh()
