"""The loss of a refiner: every mixture on the way is supervised, by a schedule."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from kernels.gmm.fisher import divergence
from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture

Schedule = Literal["final_only", "linear", "uniform", "curriculum"]
#: Divergence where the loss turns from linear to logarithmic.
SCALE = 1e-3
#: Epochs of a curriculum with the last mixture alone, and until all count in proportion.
ALONE, LINEAR = 5, 10


def schedule_weights(schedule: Schedule, count: int, epoch: int) -> list[float]:
    """Weights of ``count`` mixtures, from the start to the last; they sum to one.

    ``curriculum`` is ``final_only``, then ``linear``, then ``uniform``, as the start gets better:
    an untrained start would otherwise rule the loss.

    Raises:
        ValueError: No such schedule.
    """
    if schedule not in get_args(Schedule):
        raise ValueError(f"a schedule is one of {get_args(Schedule)}, found {schedule!r}")
    if schedule == "curriculum":
        schedule = "final_only" if epoch < ALONE else "linear" if epoch < LINEAR else "uniform"
    if schedule == "final_only":
        return [0.0] * (count - 1) + [1.0]
    shares = [float(i + 1) if schedule == "linear" else 1.0 for i in range(count)]
    return [share / sum(shares) for share in shares]


def supervised_loss(
    mixtures: Sequence[Mixture], gridded: Gridded, schedule: Schedule, epoch: int
) -> Tensor:
    r"""Weighted mean of :math:`\log(1 + \mathrm{KL} / s)` over the mixtures and the batch.

    The logarithm keeps a few densities that no mixture fits from ruling the gradient.
    """
    weights = schedule_weights(schedule, len(mixtures), epoch)
    losses = [
        weight * (divergence(gridded, m).clamp(min=0) / SCALE).log1p().mean()
        for weight, m in zip(weights, mixtures, strict=True)
        if weight > 0
    ]
    return torch.stack(losses).sum()
