"""Score networks of single windows and of whole trajectories."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.unet import Activation, UNet

_FREQUENCIES = 16


class TimeEmbedding(nn.Sequential):
    r"""Features of :math:`\cos \pi k t, \sin \pi k t`, k = 1 ... 16, through one hidden layer."""

    freqs: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(2 * _FREQUENCIES, 256), nn.SiLU(), nn.Linear(256, features))
        self.register_buffer("freqs", math.pi * torch.arange(1, _FREQUENCIES + 1))

    def forward(self, t: Tensor) -> Tensor:
        """Times (B,) to features (B, features)."""
        angle = t.unsqueeze(-1) * self.freqs
        features = torch.cat((angle.cos(), angle.sin()), dim=-1)
        for layer in self:
            features = layer(features)
        return features


class ScoreUNet(nn.Module):
    """Noise estimator of periodic fields.

    Args:
        channels: Channels of the fields.
        context: Channels of what it is told besides.
        embedding: Features of the time embedding.
        hidden_channels: Channels of each level of the U-Net, from fine to coarse.
        hidden_blocks: Residual blocks of each level.
        kernel_size: Filter size, odd.
        activation: Makes the nonlinearity.
    """

    def __init__(
        self,
        channels: int,
        context: int = 0,
        embedding: int = 64,
        hidden_channels: Sequence[int] = (96, 192, 384),
        hidden_blocks: Sequence[int] = (3, 3, 3),
        kernel_size: int = 3,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        self.embedding = TimeEmbedding(embedding)
        self.network = UNet(
            channels + context,
            channels,
            embedding,
            hidden_channels,
            hidden_blocks,
            kernel_size,
            activation,
        )

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Noise in x (B, channels, H, W) at times t, (B,) or a scalar.

        The context c is (B, context, H, W), or (context, H, W) for all alike.
        """
        modulation = self.embedding(t.to(x.dtype).expand(len(x)))
        if c is not None:
            x = torch.cat((x, c.expand(len(x), *c.shape[-3:])), dim=1)
        return cast(Tensor, self.network(x, modulation))

    def zero_output(self) -> None:
        """Zero the last convolution: the network then says zero until it is trained."""
        for parameter in self.network.tails[-1].parameters():
            nn.init.zeros_(parameter)


class LocalScoreUNet(ScoreUNet):
    r"""A :class:`ScoreUNet` that is told where the Kolmogorov forcing pushes.

    The extra channel is :math:`\sin 4y` at cell centers, y along the second-last axis, over a
    domain of :math:`2\pi`. It is a buffer, so that loaded weights bring their own: the published
    ones have y along the last axis, as their data do.

    Args:
        channels: Channels of the fields: frames of a window times features of a frame.
        size: Cells along each side.
        context: Further context channels.
        **options: Those of :class:`ScoreUNet`.
    """

    forcing: Tensor

    def __init__(self, channels: int, size: int = 64, context: int = 0, **options: Any) -> None:
        super().__init__(channels, context + 1, **options)
        y = 2 * math.pi / size * (torch.arange(size) + 0.5)
        self.register_buffer("forcing", torch.sin(4 * y).reshape(1, size, 1).repeat(1, 1, size))

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Noise in x (B, channels, size, size); t and c as in :class:`ScoreUNet`."""
        if x.shape[-2:] != self.forcing.shape[-2:]:
            raise ValueError(
                f"this network was made for fields of {tuple(self.forcing.shape[-2:])} cells, "
                f"found {tuple(x.shape[-2:])}"
            )
        forcing = self.forcing.to(x.dtype).expand(len(x), -1, -1, -1)
        if c is not None:
            forcing = torch.cat((c.expand(len(x), *c.shape[-3:]), forcing), dim=1)
        return super().forward(x, t, forcing)


class MCScoreNet(nn.Module):
    r"""Score of a trajectory of any length from the scores of its windows.

    In a Markov chain of order k, the score of frame i depends on frames i - k ... i + k alone.
    Each window of 2k + 1 frames goes through the kernel; its center is kept, and the first and
    last k frames come from the first and last window.

    Args:
        features: Channels of one frame.
        order: k.
        kernel: Noise estimator of windows: (N, (2k + 1) features, *) and (N,) to the former.
        chunk: Windows a kernel call, never of two trajectories: a trajectory's score is then
            the same to the last bit whatever else is in the batch, and long ones fit in memory.
            All windows of all trajectories at once if not given.
        recompute: Store no activations for the gradient and compute them again, chunk by chunk:
            for guiding long trajectories.

    References:
        Rozet & Louppe, Score-based Data Assimilation, NeurIPS 2023, algorithms 1 and 2.
    """

    def __init__(
        self,
        features: int,
        order: int,
        kernel: nn.Module,
        chunk: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if order < 0 or (chunk is not None and chunk < 1):
            raise ValueError(f"need order >= 0 and chunk >= 1, found {order} and {chunk}")
        self.features, self.order, self.chunk = features, order, chunk
        self.recompute = recompute
        self.kernel = kernel

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise in trajectories x (B, L, features, *) at times t, (B,) or a scalar.

        Raises:
            ValueError: A trajectory is shorter than a window, or has other features.
        """
        window = 2 * self.order + 1
        if x.shape[1] < window or x.shape[2] != self.features:
            raise ValueError(
                f"expected trajectories (B, L >= {window}, {self.features}, ...), "
                f"found {tuple(x.shape)}"
            )
        t = t.to(x.dtype).expand(len(x))
        windows = self.unfold(x, self.order)
        if self.chunk is None:
            times = t.repeat_interleave(windows.shape[1])
            scores = self._estimate(windows.flatten(0, 1), times).reshape(windows.shape)
        else:
            pairs = zip(windows, t, strict=True)
            scores = torch.stack([self._chunked(w, s, self.chunk) for w, s in pairs])
        return self.fold(scores, self.order)

    def _chunked(self, windows: Tensor, t: Tensor, size: int) -> Tensor:
        parts = torch.split(windows, size)
        return torch.cat([self._estimate(part, t.expand(len(part))) for part in parts])

    def _estimate(self, windows: Tensor, t: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self.kernel, windows, t, use_reentrant=False))
        return cast(Tensor, self.kernel(windows, t))

    @staticmethod
    def unfold(x: Tensor, order: int) -> Tensor:
        """Trajectories (B, L, C, *) to windows (B, L - 2k, (2k + 1) C, *), stride 1."""
        return x.unfold(1, 2 * order + 1, 1).movedim(-1, 2).flatten(2, 3)

    @staticmethod
    def fold(windows: Tensor, order: int) -> Tensor:
        """Window scores (B, L - 2k, (2k + 1) C, *) to one score a frame, (B, L, C, *)."""
        frames = torch.unflatten(windows, 2, (2 * order + 1, -1))
        first, last = frames[:, 0, :order], frames[:, -1, order + 1 :]
        return torch.cat((first, frames[:, :, order], last), dim=1)

    def load_official(self, state: Mapping[str, Tensor]) -> None:
        """Load weights in the published layout (``kernel.forcing``, ``kernel.network...``).

        Nothing is forgiven: a missing, unknown, misshapen or non-finite tensor leaves the network
        as it was.

        Raises:
            ValueError: The state is not of this network; names the first tensors that are not.
        """
        own = self.state_dict()
        faults = [f"{name}: missing" for name in own.keys() - state.keys()]
        faults += [f"{name}: unknown" for name in state.keys() - own.keys()]
        for name in own.keys() & state.keys():
            if own[name].shape != state[name].shape:
                shapes = tuple(own[name].shape), tuple(state[name].shape)
                faults.append(f"{name}: expected {shapes[0]}, found {shapes[1]}")
            elif not torch.isfinite(state[name]).all():
                faults.append(f"{name}: not finite")
        if faults:
            raise ValueError(
                f"{len(faults)} tensors do not fit this network, among them "
                + "; ".join(sorted(faults)[:3])
            )
        self.load_state_dict(state)


def kolmogorov_score(
    window: int = 5, features: int = 2, size: int = 64, **options: Any
) -> MCScoreNet:
    """The score of Kolmogorov flow in the published layout.

    Args:
        window: Frames a window, odd.
        features: Channels of a frame.
        size: Cells along each side.
        **options: Those of :class:`ScoreUNet`.
    """
    if window % 2 == 0:
        raise ValueError(f"a window has a center: its length must be odd, found {window}")
    kernel = LocalScoreUNet(window * features, size, **options)
    return MCScoreNet(features, window // 2, kernel)
