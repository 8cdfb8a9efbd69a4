"""Jobs that run up to a stage, and trainings that something befalls."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster import Attempt, Member
from cluster.calls import Call
from cluster.executor import Backend
from jobs.launch import Launcher
from pipelines.plan import Plan

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Train = Callable[[Any, Member, Attempt], dict[str, float]]


def run_until(plan: Plan, backend: Backend, last: str, train_with: Sequence[Call] = ()) -> None:
    """Run the stages of a plan up to one; what is done already is not done again.

    Args:
        plan: The plan.
        backend: Where.
        last: The last stage to run.
        train_with: What each member of ``train`` calls in place of the job's own function.
    """
    names = [stage.name for stage in plan.stages]
    launcher = Launcher(replace(plan, stages=plan.stages[: names.index(last) + 1]), backend)
    launcher.lay_out()
    for index, call in enumerate(train_with):
        call.save(Member(plan.directory, "train", index))
    launcher.run()


@contextmanager
def at_pass(
    network: type[nn.Module], number: int, call: Callable[[], None], in_tests: bool = False
) -> Iterator[None]:
    """Call something as a network of some class goes forward for the so many-th time, from 0.

    Args:
        network: The class.
        number: Of passes before it, in training.
        call: What is called.
        in_tests: Count passes without gradients as well.
    """
    left = number

    def look(module: nn.Module, _inputs: Any) -> None:
        nonlocal left
        if isinstance(module, network) and (in_tests or torch.is_grad_enabled()):
            left -= 1
            if left == -1:
                call()

    with register_module_forward_pre_hook(look):
        yield


def refuse_memory() -> None:
    """As CUDA does."""
    raise torch.OutOfMemoryError("CUDA out of memory (injected)")


def train_out_of_memory(
    train: Train,
    network: type[nn.Module],
    config: Any,
    passes: int,
    member: Member,
    attempt: Attempt,
) -> dict[str, float]:
    """Train, and be refused memory once, after some passes through the network."""
    with at_pass(network, passes, refuse_memory):
        return train(config, member, attempt)


def train_under_fire(
    train: Train,
    network: type[nn.Module],
    config: Any,
    shots: Sequence[tuple[int, int, float]],
    member: Member,
    attempt: Attempt,
    in_tests: bool = False,
) -> dict[str, float]:
    """Train, and in the n-th attempt be sent the n-th signal.

    Args:
        train: The job's training.
        network: The class of what it trains.
        config: The job.
        shots: Signals, each with the pass through the network, and how many seconds after it.
        member: The member.
        attempt: The attempt.
        in_tests: Of :func:`at_pass`.
    """
    if attempt.number > len(shots):
        return train(config, member, attempt)
    number, passes, delay = shots[attempt.number - 1]
    timer = threading.Timer(delay, os.kill, (os.getpid(), number))
    timer.daemon = True
    with at_pass(network, passes, timer.start, in_tests):
        return train(config, member, attempt)
