"""Convolutions and normalization of periodic fields, in channels-last memory."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.winograd import TILE, winograd_conv2d

_WINOGRAD_CHANNELS = 64
"""Below this the transforms cost more than the products save."""


class _CircularPad(torch.autograd.Function):
    """Periodic halo of width p; one copy forward, one fold backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: int) -> Tensor:
        ctx.p = p
        b, c, h, w = x.shape
        padded = torch.empty(
            (b, c, h + 2 * p, w + 2 * p),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        body = padded[:, :, p : p + h]
        body[..., p : p + w] = x
        body[..., :p], body[..., p + w :] = x[..., w - p :], x[..., :p]
        padded[:, :, :p], padded[:, :, p + h :] = padded[:, :, h : h + p], padded[:, :, p : 2 * p]
        return padded

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p = ctx.p
        h, w = grad.shape[2] - 2 * p, grad.shape[3] - 2 * p
        x = grad[:, :, p : p + h].clone(memory_format=torch.channels_last)
        x[:, :, h - p :] += grad[:, :, :p]
        x[:, :, :p] += grad[:, :, p + h :]
        body = x[..., p : p + w].clone(memory_format=torch.channels_last)
        body[..., w - p :] += x[..., :p]
        body[..., :p] += x[..., p + w :]
        return body, None


def circular_pad(x: Tensor, p: int) -> Tensor:
    """Fields (B, C, H, W) with a periodic halo of p cells, in channels-last memory."""
    if not p:
        return x
    if p > min(x.shape[-2:]):
        raise ValueError(f"a halo of {p} cells does not fit fields of {tuple(x.shape[-2:])}")
    pad: Callable[[Tensor, int], Tensor] = _CircularPad.apply
    return pad(x, p)


class CircularConv2d(nn.Conv2d):
    """Convolution of periodic fields with an odd square filter.

    On the CPU, 3 by 3 filters at stride 1 go through :mod:`kernels.winograd`; everything else, and
    anything under autocast, through the backend's convolution after one periodic padding.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        size: Filter size, odd.
        stride: Step between outputs.

    Raises:
        ValueError: The filter size is even.
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        if size % 2 == 0:
            raise ValueError(f"a periodic convolution needs an odd filter size, found {size}")
        super().__init__(inputs, outputs, size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Fields (B, C_in, H, W) to (B, C_out, H / stride, W / stride), rounded up."""
        if self._suits_winograd(x):
            return winograd_conv2d(x, self.weight, cast(Tensor, self.bias))
        # Filters in the layout of the fields: the backend would otherwise reorder the fields.
        weight = self.weight.contiguous(memory_format=torch.channels_last)
        padded = circular_pad(x, self.kernel_size[0] // 2)
        return functional.conv2d(padded, weight, self.bias, self.stride)

    def _suits_winograd(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and self.kernel_size == (3, 3)
            and self.stride == (1, 1)
            and min(self.in_channels, self.out_channels) >= _WINOGRAD_CHANNELS
            and x.shape[-2] % TILE == 0
            and x.shape[-1] % TILE == 0
            and x.dtype == self.weight.dtype
            and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu")
        )


class ChannelNorm(nn.Module):
    r"""Layer normalization of every pixel over its channels, after an optional shift.

    .. math:: y = \frac{z - \bar z}{\sqrt{s^2 + \varepsilon}}, \quad z = x + \mathrm{shift}

    with the unbiased variance :math:`s^2` (divisor C - 1) and no weights, as published scores
    have it.

    Args:
        channels: Number of channels, at least 2.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"channel statistics need at least 2 channels, found {channels}")
        self.channels = channels
        # The fused kernel divides by C: s^2 + eps = C/(C-1) (v + eps (C-1)/C).
        self._scale = ((channels - 1) / channels) ** 0.5
        self._eps = eps * (channels - 1) / channels

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Fields (B, C, H, W), and a shift (B, C, 1, 1), to fields of unit variance."""
        z = x if shift is None else x + shift
        weight = torch.full((self.channels,), self._scale, dtype=z.dtype, device=z.device)
        y = functional.layer_norm(z.permute(0, 2, 3, 1), (self.channels,), weight, None, self._eps)
        return y.permute(0, 3, 1, 2)
