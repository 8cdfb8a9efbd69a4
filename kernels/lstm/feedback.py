"""What a decoder hears of its own outputs: teacher forcing, scheduled sampling, free running."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Coin = Literal["sample", "batch"]
"""Whether each sample flips for itself at every step, or the batch flips once a step."""


class Feedback(NamedTuple):
    """Outputs that are fed back while a recurrence runs.

    Attributes:
        head: Hidden states (B, H) to what the next step hears, (B, D_out).
        first: What the first step hears, (B, D_out).
        observed: What a teacher says at each step, (T, B, D_out); nothing in a free run.
        forced: Where the teacher is heard, (T, B or 1, 1), booleans.
    """

    head: Callable[[Tensor], Tensor]
    first: Tensor
    observed: Tensor | None = None
    forced: Tensor | None = None

    def heard(self, t: int, h: Tensor) -> Tensor:
        """What step t hears, with h the hidden state before it."""
        if t == 0:
            return self.first
        if self.observed is None or self.forced is None:
            return self.head(h)
        return torch.where(self.forced[t], self.observed[t], self.head(h))

    def part(self, start: int, steps: int, h: Tensor) -> "Feedback":
        """The feedback of some of the steps, h (B, H) being the hidden state before them."""
        span = slice(start, start + steps)
        return Feedback(
            self.head,
            self.heard(start, h),
            None if self.observed is None else self.observed[span],
            None if self.forced is None else self.forced[span],
        )


def flip_coins(
    steps: int, batch: int, ratio: float, coin: Coin, generator: torch.Generator
) -> Tensor:
    """Where the teacher is heard, (T, B, 1) or (T, 1, 1), on the CPU; true with probability ratio.

    The generator is the caller's, so that a run that is resumed with its state flips the same.
    """
    shape = (steps, batch if coin == "sample" else 1, 1)
    return torch.rand(shape, generator=generator) < ratio


def scheduled_ratio(
    step: int,
    scale: float,
    decay: Literal["linear", "exponential", "inverse_sigmoid"] = "inverse_sigmoid",
) -> float:
    r"""Teacher forcing ratio after so many steps of training.

    Linear :math:`\max(0, 1 - i/k)`, exponential :math:`e^{-i/k}`, inverse sigmoid
    :math:`k / (k + e^{i/k})`, which stays near one for some :math:`k \ln k` steps.

    References:
        Bengio et al., Scheduled Sampling, NeurIPS 2015, section 2.4.

    Raises:
        ValueError: The scale k is not positive.
    """
    if scale <= 0:
        raise ValueError(f"scale: expected a positive number of steps, found {scale}")
    if decay == "linear":
        return max(0.0, 1 - step / scale)
    if decay == "exponential":
        return math.exp(-step / scale)
    # The same as k / (k + e^(i/k)), without overflow.
    return 1 / (1 + math.exp(min(step / scale - math.log(scale), 700.0)))
