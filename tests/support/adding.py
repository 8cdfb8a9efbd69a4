"""The Adding Problem in seconds, and trainings that are sent signals."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster import Attempt, Member
from jobs.adding.config import AddingConfig
from jobs.adding.training import train
from jobs.catalog import WORKLOADS
from kernels.lstm import AddingNetwork
from pipelines.plan import Plan

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def resolved(*overrides: str, preset: str = "smoke") -> AddingConfig:
    """A configuration of the job."""
    found = WORKLOADS["adding"].resolve(preset, overrides).config
    assert isinstance(found, AddingConfig)
    return found


def adding_plan(runs: Path, *overrides: str) -> Plan:
    """The plan of a small job."""
    return WORKLOADS["adding"].plan(resolved(*overrides), runs)


@contextmanager
def at_pass(number: int, call: Callable[[], None]) -> Iterator[None]:
    """Call something as a network goes forward in training for the so many-th time, from 0."""
    left = number

    def look(module: nn.Module, _inputs: Any) -> None:
        nonlocal left
        if isinstance(module, AddingNetwork) and torch.is_grad_enabled():
            left -= 1
            if left == -1:
                call()

    with register_module_forward_pre_hook(look):
        yield


def train_under_fire(
    config: AddingConfig, shots: Sequence[tuple[int, int, float]], member: Member, attempt: Attempt
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
