"""The mixture job in seconds, and trainings that something befalls."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster import Attempt, Member
from cluster.calls import Call
from cluster.executor import Backend
from jobs.catalog import WORKLOADS
from jobs.gmm.config import GmmConfig
from jobs.gmm.densities import Stored
from jobs.gmm.training import train
from jobs.launch import Launcher
from kernels.gmm.refiner import Refiner
from pipelines.plan import Plan

cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: The step whose densities :func:`spoiled` damages.
BAD_STEP = 13


def resolved(*overrides: str, preset: str = "smoke") -> GmmConfig:
    """A configuration of the job."""
    found = WORKLOADS["gmm"].resolve(preset, overrides).config
    assert isinstance(found, GmmConfig)
    return found


def run_stages(plan: Plan, backend: Backend, *names: str, train_with: Sequence[Call] = ()) -> None:
    """Run some stages of a plan to their end.

    Args:
        plan: The plan.
        backend: Where.
        names: The stages.
        train_with: What each member of ``train`` calls in place of the job's own function.
    """
    chosen = [stage for stage in plan.stages if stage.name in names]
    launcher = Launcher(replace(plan, stages=chosen), backend)
    launcher.lay_out()
    for index, call in enumerate(train_with):
        call.save(Member(plan.directory, "train", index))
    launcher.run()


@contextmanager
def spoiled() -> Iterator[None]:
    """Let the densities of one step hold a NaN."""
    whole = Stored.densities

    def densities(self: Stored, step: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        masses, edges = whole(self, step, draws)
        if step == BAD_STEP:
            masses[3, 4] = torch.nan
        return masses, edges

    Stored.densities = densities  # type: ignore[method-assign]  # put back below
    try:
        yield
    finally:
        Stored.densities = whole  # type: ignore[method-assign]  # see above


@contextmanager
def at_pass(number: int, call: Callable[[], None]) -> Iterator[None]:
    """Call something as a refiner goes forward in training for the so many-th time, from 0."""
    left = number

    def look(module: nn.Module, _inputs: Any) -> None:
        nonlocal left
        if isinstance(module, Refiner) and torch.is_grad_enabled():
            left -= 1
            if left == -1:
                call()

    with register_module_forward_pre_hook(look):
        yield


def refuse_memory() -> None:
    """As CUDA does."""
    raise torch.OutOfMemoryError("CUDA out of memory (injected)")


def train_spoiled(config: GmmConfig, member: Member, attempt: Attempt) -> dict[str, float]:
    """Train, with a NaN in one step."""
    with spoiled():
        return train(config, member, attempt)


def train_out_of_memory(
    config: GmmConfig, passes: int, member: Member, attempt: Attempt
) -> dict[str, float]:
    """The same, and be refused memory once."""
    with at_pass(passes, refuse_memory):
        return train_spoiled(config, member, attempt)


def train_under_fire(
    config: GmmConfig, shots: Sequence[tuple[int, int, float]], member: Member, attempt: Attempt
) -> dict[str, float]:
    """The same, and in the n-th attempt be sent the n-th signal.

    Args:
        config: The job.
        shots: Signals, each with the pass through the network, and how many seconds after it.
        member: The member.
        attempt: The attempt.
    """
    if attempt.number > len(shots):
        return train_spoiled(config, member, attempt)
    number, passes, delay = shots[attempt.number - 1]
    timer = threading.Timer(delay, os.kill, (os.getpid(), number))
    timer.daemon = True
    with at_pass(passes, timer.start):
        return train_spoiled(config, member, attempt)


def gmm_plan(runs: Path, *overrides: str) -> Plan:
    """The plan of a small job."""
    return WORKLOADS["gmm"].plan(resolved(*overrides), runs)
