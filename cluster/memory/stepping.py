"""The optimizer's step: taken exactly once, whether or not it is out of memory on the way."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from cluster.memory.refusal import Refusal, free_memory, is_out_of_memory, tried
from cluster.memory.undoing import ParameterCopy

logger = logging.getLogger(__name__)


class OptimizerStep:
    """A step of an optimizer that an out-of-memory does not take twice. Call it to take the step.

    A step that was cut short has changed some parameters and not others, so it cannot be repeated.
    The first one is where memory is most likely to run out: it allocates the optimizer's state.
    It is taken with a copy in host memory. If it is out of memory, everything is put back, and
    this step and all further ones are taken *thriftily*: parameter by parameter, so that
    temporaries are those of one parameter, each with a copy of that parameter alone. The result
    is that of the plain step, bit for bit, as the parameters do not enter each other's updates.

    A later step needs no more memory than the first, and copying before each would cost time.
    If one is out of memory all the same the error passes, and nothing but going back to a
    checkpoint helps. The executor does so: it starts the member again, where
    ``thrifty=attempt.device_oom_before`` keeps it from happening again.

    Optimizers from outside of ``torch.optim``, which may couple parameters, are never taken apart.
    Thrifty steps of theirs are whole ones with a copy of everything.

    Args:
        optimizer: Any whose ``step`` needs no closure.
        thrifty: Whether to be thrifty from the start.
    """

    def __init__(self, optimizer: Optimizer, thrifty: bool = False) -> None:
        self.optimizer = optimizer
        self.thrifty = thrifty
        self._fits = False

    def __call__(self) -> None:
        """Take the step.

        Raises:
            torch.OutOfMemoryError: The step was cut short and cannot be healed here.
        """
        if not self.thrifty:
            self._take_whole()
        # No 'else': a first step that did not fit is taken here, and from now on.
        if self.thrifty:
            take_by_parts(self.optimizer)

    def _take_whole(self) -> None:
        if self._fits:
            self._take_unguarded()
            return
        refusal = _guarded(self.optimizer, _moving(self.optimizer))
        self._fits, self.thrifty = refusal is None, refusal is not None
        if refusal is not None:
            logger.warning(
                "out of memory in the optimizer's step: it is taken parameter by parameter from "
                "now on. The allocator said: %s",
                refusal.why,
            )

    def _take_unguarded(self) -> None:
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                error.add_note(
                    "The optimizer's step was cut short: go back to the last checkpoint, and take "
                    "steps with OptimizerStep(..., thrifty=True)."
                )
            raise


def take_by_parts(optimizer: Optimizer) -> None:
    """Take one step of an optimizer with as little memory as can be.

    Raises:
        torch.OutOfMemoryError: One parameter does not fit; those before it have been stepped.
    """
    moving = _moving(optimizer)
    parts = [[parameter] for parameter in moving] if _is_separable(optimizer) else [moving]
    for number, part in enumerate(parts):
        with _alone(part, moving):
            # What was freed after the first try may be all that was missing.
            refusal = _guarded(optimizer, part) and _guarded(optimizer, part)
        if refusal is not None:
            raise torch.OutOfMemoryError(
                f"out of memory in the optimizer's step, in part {number + 1} of {len(parts)} "
                "taken one by one: go back to the last checkpoint, and use a smaller model or a "
                f"device with more memory. The allocator said: {refusal.why}"
            )


def _guarded(optimizer: Optimizer, parameters: Sequence[Tensor]) -> Refusal | None:
    """Take a step; where it is out of memory nothing has changed."""
    before = tried(lambda: ParameterCopy(optimizer, parameters))
    if isinstance(before, Refusal):
        free_memory()
        return before
    outcome = tried(lambda: optimizer.step())
    if not isinstance(outcome, Refusal):
        return None
    before.put_back()
    del before
    free_memory()
    return outcome


@contextmanager
def _alone(part: Sequence[Tensor], moving: Sequence[Tensor]) -> Iterator[None]:
    """Hide the gradients of all but some parameters, which an optimizer then passes over."""
    gradients = [parameter.grad for parameter in moving]
    shown = {id(parameter) for parameter in part}
    try:
        for parameter in moving:
            if id(parameter) not in shown:
                parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(moving, gradients, strict=True):
            parameter.grad = gradient


def _moving(optimizer: Optimizer) -> list[Tensor]:
    """The parameters that a step changes, in the optimizer's order."""
    groups = (group["params"] for group in optimizer.param_groups)
    return [parameter for group in groups for parameter in group if parameter.grad is not None]


def _is_separable(optimizer: Optimizer) -> bool:
    """Whether a parameter's update is known to depend on that parameter alone."""
    ours = type(optimizer).__module__.startswith("torch.optim.")
    return ours and not isinstance(optimizer, LBFGS)
