"""A training of milliseconds on the loop that real ones use."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.training.loop import Trainer
from pipelines.training.settings import TrainingConfig

BATCH, STEPS_PER_EPOCH = 12, 4
#: Settings that use every kind of state.
RICH: dict[str, Any] = {
    "ema": 0.9,
    "clip": 0.5,
    "patience": 3,
    "validate_every": 2,
    "max_skipped": 0.02,
}

Spoiler = Callable[[int, Tensor], Tensor]


class Regression:
    """Squared error of a small network; what is drawn depends on the step alone.

    Args:
        network: What is trained.
        spoil: Changes the losses of a step before they are returned.
        validations: What each validation finds, in order; else the mean of the weights' squares.
    """

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(
        self, network: nn.Module, spoil: Spoiler | None = None, validations: Any = None
    ) -> None:
        self.network, self.spoil, self.validations = network, spoil, validations
        self.dtype = next(network.parameters()).dtype
        self.step = -1

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        self.step = step
        x = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(step)).to(self.dtype)
        return x, x.sum(dim=1, keepdim=True)

    def losses(self, batch: tuple[Tensor, Tensor], part: slice) -> Tensor:
        x, y = batch
        losses: Tensor = (self.network(x[part]) - y[part]).square().mean(dim=1)
        return losses if self.spoil is None else self.spoil(self.step, losses)

    def validate(self, network: nn.Module) -> float:
        if self.validations is not None:
            return float(next(self.validations))
        return float(sum(p.square().mean() for p in network.parameters()))


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 1)).to(dtype)


def config(**changes: Any) -> TrainingConfig:
    sizes = {"epochs": 5, "batch": BATCH, "microbatch": BATCH, "grain": 4, "learning_rate": 1e-2}
    return TrainingConfig(**(sizes | changes))


class Run:
    """A trainer, and what it recorded."""

    def __init__(
        self, ask: TrainingConfig, spoil: Spoiler | None = None, validations: Any = None
    ) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        net = network()
        objective = Regression(net, spoil, validations)
        self.trainer = Trainer(net, objective, ask, lambda *row: self.rows.append(row))

    def go(self, steps: int | None = None) -> "Run":
        while self.trainer.steps_done < self.trainer.steps_total and steps != 0:
            self.trainer.step()
            steps = None if steps is None else steps - 1
        return self

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(self.trainer.state_dict())
