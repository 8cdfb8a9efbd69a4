"""A training run of milliseconds over several ranks, and faults that befall one of them."""

import os
import random
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from cluster import Accumulator, Attempt, average_gradients
from support.small_work import refuse_memory_once

cloudpickle.register_pickle_by_value(sys.modules[__name__])

BATCH = 8


class TeamTrainer:
    """The ranks share the weights; each draws its own samples and dropout, and counts them."""

    def __init__(self, seed: int, steps: int, attempt: Attempt) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)  # the same weights everywhere
        self.model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.accumulator = Accumulator(BATCH, microbatch=BATCH, grain=2, agree=attempt.any_rank)
        self.steps_done, self.steps_total = 0, steps
        self.seen = 0.0
        torch.manual_seed(seed + 1000 * (1 + attempt.rank))  # other draws on each rank
        random.seed(seed + attempt.rank)

    def step(self) -> None:
        x = torch.randn(BATCH, 8) + random.random()
        y = x.sum(dim=1, keepdim=True)

        def loss(part: slice) -> Tensor:
            error: Tensor = self.model(x[part]) - y[part]
            return error.square().sum() / BATCH

        self.seen += self.accumulator.backward(loss, self.optimizer.zero_grad)
        average_gradients(self.model.parameters(), bucket=256)
        self.optimizer.step()
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "accumulator": self.accumulator.state_dict(),
            "steps_done": self.steps_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.accumulator.load_state_dict(state["accumulator"])
        self.steps_done = state["steps_done"]

    def rank_state_dict(self) -> Mapping[str, Any]:
        return {"seen": self.seen}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


#: What befalls a rank in an attempt, by their numbers: its kind, and the step or the seconds.
Faults = Mapping[tuple[int, int], tuple[str, float]]


def train_together(
    seed: int, steps: int, attempt: Attempt, faults: Faults | None = None, pause: float = 0.0
) -> dict[str, Any]:
    """Train, and meet the fault that is planned for this rank in this attempt, if any."""
    trainer = TeamTrainer(seed, steps, attempt)
    attempt.restore(trainer)
    print(f"rank {attempt.rank} of {attempt.ranks} goes on from {trainer.steps_done}", flush=True)
    kind, when = (faults or {}).get((attempt.number, attempt.rank), ("", -1.0))
    if kind.startswith("timer-"):
        number = signal.Signals[kind.removeprefix("timer-")]
        threading.Timer(when, os.kill, (os.getpid(), number)).start()
    for step in attempt.steps(trainer):
        if step == when:
            _meet(kind, trainer)
        trainer.step()
        if pause:
            threading.Event().wait(pause)
    every = torch.zeros(attempt.ranks, 2, dtype=torch.float64)
    every[attempt.rank] = torch.tensor([trainer.seen, torch.rand(1).item()])
    if attempt.ranks > 1:
        torch.distributed.all_reduce(every)
    return {**trainer.state_dict(), "every rank": every}


def _meet(kind: str, trainer: TeamTrainer) -> None:
    if kind.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[kind])
    if kind == "error":
        raise LookupError("no such sample")
    if kind == "oom":
        refuse_memory_once(trainer.model[2])
