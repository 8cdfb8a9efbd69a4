"""A training run of milliseconds that uses every kind of state a real one has."""

import os
import random
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from cluster import Accumulator, Attempt
from cluster.checkpoints import random_state

# Workers cannot import the tests: send this module along with what is pickled from it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BATCH = 16


class SmallTrainer:
    """Regression with dropout, AdamW and draws from all three global generators."""

    def __init__(self, seed: int, steps: int = 40) -> None:
        torch.set_num_threads(1)
        random_state.seed(seed)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.accumulator = Accumulator(BATCH, microbatch=BATCH, grain=4)
        self.steps_done, self.steps_total = 0, steps
        self.losses: list[float] = []

    def step(self) -> None:
        x = torch.randn(BATCH, 8) + random.random() + float(np.random.rand())  # noqa: NPY002 - its state is under test
        y = x.sum(dim=1, keepdim=True)

        def loss(part: slice) -> Tensor:
            error: Tensor = self.model(x[part]) - y[part]
            return error.square().sum() / BATCH

        self.losses.append(self.accumulator.backward(loss, self.optimizer.zero_grad))
        self.optimizer.step()
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "accumulator": self.accumulator.state_dict(),
            "steps_done": self.steps_done,
            "losses": self.losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.accumulator.load_state_dict(state["accumulator"])
        self.steps_done, self.losses = state["steps_done"], list(state["losses"])

    def result(self) -> dict[str, Any]:
        return {**self.state_dict(), "draws": (random.random(), torch.rand(1).item())}


def train(seed: int, steps: int, attempt: Attempt, pause: float = 0.0) -> dict[str, Any]:
    trainer = SmallTrainer(seed, steps)
    attempt.restore(trainer)
    for _ in attempt.steps(trainer):
        trainer.step()
        if pause:
            threading.Event().wait(pause)
    return trainer.result()


def train_with_faults(
    seed: int, steps: int, faults: Mapping[int, tuple[str, float]], attempt: Attempt
) -> dict[str, Any]:
    """Train, and meet the fault that is planned for this attempt, if any.

    A fault is a kind and a number: a signal's name and the step at whose start it is sent to this
    process; ``timer-`` and a signal's name and the seconds after which it comes, inside a step as
    well as between; ``oom`` and the step in which the allocator refuses.
    """
    trainer = SmallTrainer(seed, steps)
    attempt.restore(trainer)
    kind, when = faults.get(attempt.number, ("", -1.0))
    if kind.startswith("timer-"):
        number = signal.Signals[kind.removeprefix("timer-")]
        threading.Timer(when, os.kill, (os.getpid(), number)).start()
    for step in attempt.steps(trainer):
        if step == when and kind.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[kind])
        if step == when and kind == "oom":
            refuse_memory_once(trainer.model[2])
        trainer.step()
    return trainer.result()


def refuse_memory_once(layer: nn.Module) -> None:
    """Let a layer run out of memory the next time it is used."""

    def refuse(module: nn.Module, inputs: Any) -> None:
        handle.remove()
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    handle = layer.register_forward_pre_hook(refuse)


def equal(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def without_sizes(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without the learned microbatch, which an out-of-memory rightly changes."""
    return {key: value for key, value in result.items() if key != "accumulator"}
