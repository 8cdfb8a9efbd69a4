"""The largest microbatch that fits, found by trying."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from cluster.checkpoints import random_state
from cluster.memory.accumulator import Accumulator, Loss
from cluster.memory.refusal import Refusal, free_memory, tried
from cluster.memory.stepping import take_by_parts
from cluster.memory.undoing import BufferCopy, ParameterCopy

logger = logging.getLogger(__name__)


def _unnoted(size: int) -> None:
    """What is tried is noted nowhere."""


def fit_microbatch(
    accumulator: Accumulator,
    loss: Loss,
    network: nn.Module,
    optimizer: Optimizer | None = None,
    headroom: float = 0.1,
    note: Callable[[int], None] = _unnoted,
) -> int:
    """Set an accumulator's microbatch to the largest that fits.

    One, two, four … grains are tried, then the gap is bisected. Each try takes two microbatches
    forward and backward (the second meets the gradients of the first) while the state of the
    optimizer exists, so that it meets what later steps will. Nothing is changed by it but the
    accumulator's microbatch: gradients, buffers, generators, parameters and the state of the
    optimizer are as before, and so the result of training is the same bit for bit.

    Args:
        accumulator: Whose microbatch is set; between its grain and its ceiling.
        loss: As in :meth:`Accumulator.backward`, of a batch that is like all others.
        network: What the loss is taken of.
        optimizer: What will step it.
        headroom: Fraction of the size that is left free where a larger one did not fit: memory
            in use varies from batch to batch, and free memory is in pieces.
        note: Called with each size before it is tried, and with the one that is taken. A try may
            be killed rather than refused; with ``attempt.note_microbatch`` the next attempt
            then knows.

    Returns:
        The microbatch; the grain where nothing fitted, which the accumulator then halves.

    Raises:
        ValueError: The headroom is not in [0, 1).
        torch.OutOfMemoryError: The state of the optimizer alone does not fit.
    """
    if not 0 <= headroom < 1:
        raise ValueError(f"headroom: expected a fraction in [0, 1), found {headroom}")
    grain, most = accumulator.grain, accumulator.ceiling

    def fits(grains: int) -> bool:
        accumulator.microbatch = min(grains * grain, most)
        note(accumulator.microbatch)
        stop = min(2 * accumulator.microbatch, accumulator.batch)
        network.zero_grad()
        outcome = tried(lambda: sum(accumulator.shares(loss, stop), 0.0))
        free_memory()
        return not accumulator.agree(isinstance(outcome, Refusal))

    with _unchanged(network), _stateful(optimizer):
        largest = largest_fitting(fits, -(-most // grain))
    whole = largest * grain >= most
    grains = largest if whole else max(1, int(largest * (1 - headroom)))
    accumulator.microbatch = min(grains * grain, most)
    note(accumulator.microbatch)
    logger.info(
        "microbatch %d of a batch of %d: %d fitted, and the most asked for was %d",
        *(accumulator.microbatch, accumulator.batch, min(largest * grain, most), most),
    )
    return accumulator.microbatch


def largest_fitting(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that fits, 0 where 1 does not.

    Doubling, then bisection: at most :math:`2 \\log_2` of the answer, and two, tries.

    Args:
        fits: Whether a number fits; whatever is less than one that fits is taken to fit.
        most: The largest of interest, at least 1.
    """
    fitting, trial = 0, 1
    while fitting < most and fits(trial):
        fitting, trial = trial, min(2 * trial, most)
    too_many = trial
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
    return fitting


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """Put gradients, buffers and random generators back at the end."""
    generators, buffers = random_state.capture(), BufferCopy(network)
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    try:
        # Else zero_grad would keep gradients that are needed later, or add to them.
        network.zero_grad(set_to_none=True)
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        buffers.put_back()
        random_state.restore(generators)


@contextmanager
def _stateful(optimizer: Optimizer | None) -> Iterator[None]:
    """Let the optimizer's state exist, as after a first step, and undo that step at the end."""
    if optimizer is None:
        yield
        return
    groups = (group["params"] for group in optimizer.param_groups)
    parameters = [p for group in groups for p in group if p.requires_grad]
    before = ParameterCopy(optimizer, parameters)
    try:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        take_by_parts(optimizer)
        optimizer.zero_grad(set_to_none=True)
        yield
    finally:
        before.put_back()
        free_memory()
