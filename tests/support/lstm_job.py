"""The LSTM job in seconds, and trainings that something befalls."""

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
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster import Attempt, Member
from cluster.calls import Call
from cluster.executor import Backend
from jobs.catalog import WORKLOADS
from jobs.launch import Launcher
from jobs.lstm.config import LstmConfig
from jobs.lstm.training import train
from kernels.lstm import StaticDynamicLSTM
from pipelines.plan import Plan

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def resolved(*overrides: str, preset: str = "smoke") -> LstmConfig:
    """A configuration of the job."""
    found = WORKLOADS["lstm"].resolve(preset, overrides).config
    assert isinstance(found, LstmConfig)
    return found


def lstm_plan(runs: Path, *overrides: str) -> Plan:
    """The plan of a small job."""
    return WORKLOADS["lstm"].plan(resolved(*overrides), runs)


def run_stages(plan: Plan, backend: Backend, last: str, train_with: Sequence[Call] = ()) -> None:
    """Run the stages of a plan up to one; what is done already is not done again.

    Args:
        plan: The plan.
        backend: Where.
        last: The last stage to run.
        train_with: What each member of ``train`` calls in place of the job's own function.
    """
    names = [stage.name for stage in plan.stages]
    chosen = plan.stages[: names.index(last) + 1]
    launcher = Launcher(replace(plan, stages=chosen), backend)
    launcher.lay_out()
    for index, call in enumerate(train_with):
        call.save(Member(plan.directory, "train", index))
    launcher.run()


@contextmanager
def at_pass(number: int, call: Callable[[], None]) -> Iterator[None]:
    """Call something as a network goes forward, in training or test, for the so many-th time."""
    left = number

    def look(module: nn.Module, _inputs: Any) -> None:
        nonlocal left
        if isinstance(module, StaticDynamicLSTM):
            left -= 1
            if left == -1:
                call()

    with register_module_forward_pre_hook(look):
        yield


def refuse_memory() -> None:
    """As CUDA does."""
    raise torch.OutOfMemoryError("CUDA out of memory (injected)")


def train_out_of_memory(
    config: LstmConfig, passes: int, member: Member, attempt: Attempt
) -> dict[str, float]:
    """Train, and be refused memory once."""
    with at_pass(passes, refuse_memory):
        return train(config, member, attempt)


def train_under_fire(
    config: LstmConfig, shots: Sequence[tuple[int, int, float]], member: Member, attempt: Attempt
) -> dict[str, float]:
    """Train, and in the n-th attempt be sent the n-th signal.

    Args:
        config: The job.
        shots: Signals, each with the pass through the network, and how many seconds after it.
        member: The member.
        attempt: The attempt.
    """
    if attempt.number > len(shots):
        return train(config, member, attempt)
    number, passes, delay = shots[attempt.number - 1]
    timer = threading.Timer(delay, os.kill, (os.getpid(), number))
    timer.daemon = True
    with at_pass(passes, timer.start):
        return train(config, member, attempt)
