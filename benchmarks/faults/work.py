"""The work of the campaign: steps that depend on everything a step can depend on."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.faults.scene import Scene
from cluster import Accumulator
from cluster.checkpoints import random_state

BATCH, FEATURES = 8, 8


@dataclass(frozen=True)
class Terms:
    """What all contenders are given alike.

    Attributes:
        root: The directory of the campaign.
        members: How many members the array has.
        steps: How many steps each of them takes.
        pace: Seconds a step.
        save_every: Steps between periodic saves.
        memory: MiB of a member.
        minutes: Its time limit.
        signal_delay: Seconds before the limit at which Slurm is asked for USR2.
        cpus: Cores of a member.
    """

    root: Path
    members: int = 8
    steps: int = 600
    pace: float = 0.25
    save_every: int = 12
    memory: int = 1200
    minutes: int = 20
    signal_delay: int = 20
    cpus: int = 1

    def scene(self, contender: str, member: int) -> Scene:
        """The scene of a member, laid out."""
        directory = self.root / contender / "scenes" / f"{member:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        return Scene(directory, self.memory)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Dropout(0.2), nn.Linear(64, 1))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def seed_everything(member: int) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    random_state.seed(1000 + member)


def batch(member: int, step: int) -> Tensor:
    """The inputs of a step: a function of member and step, plus draws from global generators."""
    source = torch.Generator().manual_seed(100_000 * member + step)
    noise = random.random() + float(np.random.rand())  # noqa: NPY002 - its state is under test
    return torch.randn(BATCH, FEATURES, generator=source) + 0.1 * noise + 0.1 * torch.randn(1)


def squared_error(model: nn.Module, x: Tensor) -> Tensor:
    """The share of a part of the batch in the loss of the whole."""
    error: Tensor = model(x) - x.sum(dim=1, keepdim=True)
    return error.square().sum() / BATCH


class Trainer:
    """A training as anyone would write it.

    A step spends its time between the gradient and the update, as one does that waits for its
    device. So a signal finds it in the middle of a step almost always, as in life.
    """

    def __init__(self, member: int, steps: int, pace: float) -> None:
        seed_everything(member)
        self.member, self.pace = member, pace
        self.model = network()
        self.optimizer = optimizer_of(self.model)
        self.steps_done, self.steps_total = 0, steps
        self.losses: list[float] = []

    def step(self) -> None:
        begun = time.monotonic()
        loss = self.backward(batch(self.member, self.steps_done))
        time.sleep(max(0.0, begun + self.pace - time.monotonic()))
        self.optimizer.step()
        self.losses.append(loss)
        self.steps_done += 1

    def backward(self, x: Tensor) -> float:
        """Set the gradient of a batch and return its loss."""
        self.optimizer.zero_grad()
        loss = squared_error(self.model, x)
        torch.autograd.backward(loss)
        return loss.item()

    def refuse_memory_once(self) -> None:
        """Let the next forward pass run out of memory as on a GPU."""
        refuse_memory_once(self.model)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.steps_done,
            "losses": self.losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done, self.losses = state["steps_done"], list(state["losses"])


class HealingTrainer(Trainer):
    """The same with yaoki's accumulator, which is what heals an out-of-memory of the device."""

    def __init__(self, member: int, steps: int, pace: float) -> None:
        super().__init__(member, steps, pace)
        self.accumulator = Accumulator(BATCH, microbatch=BATCH, grain=1)

    @property
    def microbatch(self) -> int:
        return self.accumulator.microbatch

    def limit_microbatch(self, limit: int) -> None:
        self.accumulator.microbatch = min(self.accumulator.microbatch, limit)

    def backward(self, x: Tensor) -> float:
        def loss(part: slice) -> Tensor:
            return squared_error(self.model, x[part])

        return self.accumulator.backward(loss, self.optimizer.zero_grad)

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "accumulator": self.accumulator.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.accumulator.load_state_dict(state["accumulator"])


def refuse_memory_once(model: nn.Sequential) -> None:
    def refuse(_module: nn.Module, _inputs: object) -> None:
        handle.remove()
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    handle = model[2].register_forward_pre_hook(refuse)


def final_state(trainer: Trainer) -> dict[str, Any]:
    """Everything a member has come to: weights, optimizer, losses, generators.

    Without the learned microbatch, which an out-of-memory rightly changes.
    """
    state = {name: value for name, value in trainer.state_dict().items() if name != "accumulator"}
    return {**state, "random": random_state.capture()}


def run_steps(trainer: Trainer, scene: Scene, save: Callable[[], None] = lambda: None) -> None:
    """Take the steps that are left, and leave the final state."""
    scene.begin(trainer.steps_done)
    while trainer.steps_done < trainer.steps_total:
        scene.obey(trainer.refuse_memory_once)
        trainer.step()
        scene.did(trainer.steps_done)
        save()
    scene.finish(final_state(trainer))


def equal(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
