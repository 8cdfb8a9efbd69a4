"""U-Net of modulated residual blocks on periodic two-dimensional fields."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from kernels.convolution import ChannelNorm, CircularConv2d

Activation = Callable[[], nn.Module]


class ModulatedBlock(nn.Module):
    r"""Residual block whose normalization sees the modulation.

    .. math:: x \leftarrow x + W_2 * \phi(W_1 * \mathrm{LN}(x + P\,y))

    Args:
        channels: Channels of the fields.
        embedding: Features of the modulation y.
        size: Filter size.
        activation: Makes the nonlinearity.
    """

    def __init__(self, channels: int, embedding: int, size: int, activation: Activation) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(embedding, channels), nn.Unflatten(-1, (channels, 1, 1))
        )
        self.residue = nn.Sequential(
            ChannelNorm(channels),
            CircularConv2d(channels, channels, size),
            activation(),
            CircularConv2d(channels, channels, size),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fields x (B, C, H, W) under the modulation y (B, embedding)."""
        norm, *rest = self.residue
        residue = norm(x, self.project(y))
        for layer in rest:
            residue = layer(residue)
        return cast(Tensor, x + residue)


class UNet(nn.Module):
    """Descent, ascent, additive skips; every level halves the resolution.

    Parameter names are those of the published scores: ``heads``, ``descent`` from fine to coarse,
    ``ascent``, ``tails`` from coarse to fine.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        embedding: Features of the modulation.
        hidden_channels: Channels of each level, from fine to coarse.
        hidden_blocks: Blocks of each level on the way down, and as many on the way up.
        kernel_size: Filter size, odd.
        activation: Makes the nonlinearity.

    Raises:
        ValueError: The two tuples differ in length or are empty.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        hidden_channels: Sequence[int] = (96, 192, 384),
        hidden_blocks: Sequence[int] = (3, 3, 3),
        kernel_size: int = 3,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        if not hidden_channels or len(hidden_channels) != len(hidden_blocks):
            raise ValueError(
                "hidden_channels and hidden_blocks need one entry a level each, "
                f"found {tuple(hidden_channels)} and {tuple(hidden_blocks)}"
            )
        levels = list(zip(hidden_channels, hidden_blocks, strict=True))
        self.factor = 2 ** (len(levels) - 1)
        self.heads = nn.ModuleList([CircularConv2d(inputs, hidden_channels[0], kernel_size)])
        tails: list[nn.Module] = [CircularConv2d(hidden_channels[0], outputs, kernel_size)]
        for fine, coarse in pairwise(hidden_channels):
            self.heads.append(nn.Sequential(CircularConv2d(fine, coarse, kernel_size, stride=2)))
            tails.append(_upward(coarse, fine, kernel_size))
        self.tails = nn.ModuleList(reversed(tails))

        def stack(channels: int, blocks: int) -> nn.ModuleList:
            make = [
                ModulatedBlock(channels, embedding, kernel_size, activation) for _ in range(blocks)
            ]
            return nn.ModuleList(make)

        self.descent = nn.ModuleList(stack(*level) for level in levels)
        self.ascent = nn.ModuleList(stack(*level) for level in reversed(levels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fields x (B, inputs, H, W), modulation y (B, embedding), to (B, outputs, H, W).

        Raises:
            ValueError: H or W cannot be halved as often as there are levels.
        """
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise ValueError(
                f"fields of {tuple(x.shape[-2:])} cannot be halved down to the coarsest level: "
                f"both sizes must be multiples of {self.factor}"
            )
        x = x.contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for head, blocks in zip(self.heads, self.descent, strict=True):
            x = _through(cast(nn.ModuleList, blocks), head(x), y)
            skips.append(x)
        skips.pop()
        for blocks, tail in zip(self.ascent, self.tails, strict=True):
            x = tail(_through(cast(nn.ModuleList, blocks), x, y))
            if skips:
                x = x + skips.pop()
        return x


def _upward(coarse: int, fine: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        ChannelNorm(coarse),
        nn.Upsample(scale_factor=2.0, mode="nearest"),
        CircularConv2d(coarse, fine, kernel_size),
    )


def _through(blocks: nn.ModuleList, x: Tensor, y: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, y)
    return x
