"""The training loop: one optimizer step at a time, its whole state in the open."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from cluster import Accumulator, Attempt, OptimizerStep, fit_microbatch
from cluster.checkpoints import random_state
from cluster.memory.accumulator import Loss
from cluster.memory.undoing import BufferCopy
from pipelines.training.guard import (
    Fault,
    Guard,
    NonFiniteError,
    bad_gradient,
    bad_input,
    origin_of_nan,
    plain,
)
from pipelines.training.settings import TrainingConfig, learning_rate

__all__ = ["NonFiniteError", "Objective", "Record", "Trainer", "make_deterministic"]

Record = Callable[[int, Mapping[str, float]], None]
"""Takes the number of steps done and the metrics at that point."""

BatchT = TypeVar("BatchT")


class Objective(Protocol[BatchT]):
    """What is minimized, and on which data."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""

    def draw(self, step: int) -> BatchT:
        """The whole batch of a step, noise included, as a function of the step alone."""

    def losses(self, batch: BatchT, part: slice) -> Tensor:
        """The loss of each sample of a part of the batch, (n,)."""

    def validate(self, network: nn.Module) -> float:
        """The loss on held-out data."""


class Trainer:
    """Trains a network on an objective; a work in the sense of the step loop.

    Args:
        network: What is trained.
        objective: On what.
        config: How.
        record: Takes the metrics of every epoch.
        attempt: Whose steps these are: it is told of sizes that are tried, and knows whether
            memory has been short before.
        guard: What becomes of steps that are not finite; by default they are counted alone.

    Raises:
        ValueError: The sizes of batch, microbatch and grain do not fit together.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective[Any],
        config: TrainingConfig,
        record: Record,
        attempt: Attempt | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.network, self.objective = network, objective
        self.config, self.record = config, record
        self.guard = Guard(config.max_skipped) if guard is None else guard
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        thrifty = attempt is not None and attempt.device_oom_before
        self._optimizer_step = OptimizerStep(self.optimizer, thrifty)
        self.accumulator = Accumulator(
            config.batch, config.largest_microbatch, config.grain, grow_after=config.grow_after
        )
        self._fitted = config.microbatch != "auto"
        self._note = (lambda _: None) if attempt is None else attempt.note_microbatch
        self.average = _copy(network) if config.ema is not None else None
        self.steps_done = self.skipped = self.stale = 0
        self.best = math.inf
        self.stopped = False
        self._epoch_loss: list[float] = []

    @property
    def steps_total(self) -> int:
        """Steps to do; as many as are done once training has stopped early."""
        planned = self.config.epochs * self.objective.steps_per_epoch
        return self.steps_done if self.stopped else planned

    def step(self) -> None:
        """One step of the optimizer, and what is due at the end of an epoch.

        Raises:
            NonFiniteError: The share of skipped steps is above what the configuration allows.
        """
        epoch = self.steps_done // self.objective.steps_per_epoch
        rate = learning_rate(self.config, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._take(self.objective.draw(self.steps_done))
        self.steps_done += 1
        if self.steps_done % self.objective.steps_per_epoch == 0:
            self._end_epoch(epoch + 1, rate)

    @property
    def final_network(self) -> nn.Module:
        """The network to use: the average where one is kept."""
        return self.network if self.average is None else self.average

    @property
    def microbatch(self) -> int:
        """Samples on the device at once."""
        return self.accumulator.microbatch

    def limit_microbatch(self, limit: int) -> None:
        """Put at most ``limit`` samples on the device at once from now on."""
        self.accumulator.limit(limit)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "accumulator": self.accumulator.state_dict(),
            "fitted": self._fitted,
            "counters": [self.steps_done, self.skipped, self.stale],
            "best": self.best,
            "stopped": self.stopped,
            "epoch_loss": list(self._epoch_loss),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.accumulator.load_state_dict(state["accumulator"])
        self._fitted = state["fitted"]
        self.steps_done, self.skipped, self.stale = state["counters"]
        self.best, self.stopped = state["best"], state["stopped"]
        self._epoch_loss = list(state["epoch_loss"])

    def _take(self, batch: Any) -> None:
        """Take the step of a batch, or nothing of it where something in it is not finite."""
        fault = bad_input(batch)
        before, buffers = random_state.capture(), BufferCopy(self.network)
        if fault is None:
            loss = self._backward(batch, buffers)
            fault = bad_gradient(self.network) if math.isfinite(loss) else Fault("loss")
        if fault is None:
            self._apply()
            self._epoch_loss.append(loss)
        else:
            self._skip(batch, fault, before, buffers)

    def _backward(self, batch: Any, buffers: BufferCopy) -> float:
        share = self._share(batch)
        if not self._fitted:
            fit_microbatch(self.accumulator, share, self.network, self.optimizer, note=self._note)
            self._fitted = True

        def clear() -> None:
            self.optimizer.zero_grad()
            buffers.put_back()

        return self.accumulator.backward(share, clear)

    def _share(self, batch: Any) -> Loss:
        device = next(self.network.parameters()).device.type
        mixed = self.config.precision == "bf16"

        def share(part: slice) -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=mixed):
                losses = self.objective.losses(batch, part)
            exact = torch.promote_types(losses.dtype, torch.float32)
            return losses.to(exact).sum() / self.config.batch

        return share

    def _apply(self) -> None:
        # Out of memory while clipping or averaging is not healed here: the error passes, and the
        # next attempt takes the step from the last checkpoint. Neither needs memory to speak of.
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self._optimizer_step()
        if self.average is not None:
            _blend(self.average, self.network, cast(float, self.config.ema))

    def _skip(
        self, batch: Any, fault: Fault, before: Mapping[str, Any], buffers: BufferCopy
    ) -> None:
        # Neither weights nor optimizer were touched, so one bad batch costs one batch.
        buffers.put_back()
        if self.guard.trace and fault.part != "input":
            fault = replace(fault, origin=self._origin(batch, before, buffers))
        self.optimizer.zero_grad()
        self.skipped += 1
        self.guard.skip(
            self.steps_done,
            self.skipped,
            fault,
            lambda: {
                "batch": plain(batch),
                "network": self.network.state_dict(),
                "random": before,
            },
        )

    def _origin(self, batch: Any, before: Mapping[str, Any], buffers: BufferCopy) -> str:
        """Go through a bad batch once more, and leave no trace of it."""
        after = random_state.capture()
        random_state.restore(before)
        shares = self.accumulator.shares(self._share(batch), self.config.batch)
        origin = origin_of_nan(lambda: list(shares))
        random_state.restore(after)
        buffers.put_back()
        return origin

    def _end_epoch(self, epoch: int, rate: float) -> None:
        losses = self._epoch_loss
        # Where every step was skipped there is no loss to tell, and 0 would be the best of all.
        mean = math.fsum(losses) / len(losses) if losses else math.nan
        metrics = {"epoch": float(epoch), "loss": mean, "learning_rate": rate}
        metrics |= {"skipped": float(self.skipped)}
        self._epoch_loss = []
        if epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            metrics["validation"] = self._validate()
        self.record(self.steps_done, metrics)

    def _validate(self) -> float:
        with torch.no_grad():
            value = self.objective.validate(self.final_network)
        self.stale = 0 if value < self.best else self.stale + 1
        self.best = min(self.best, value)
        if self.config.patience is not None and self.stale >= self.config.patience:
            self.stopped = True
        return value


def make_deterministic(threads: int, seed: int) -> None:
    """Fix the number of threads, seed all generators, and ask torch for deterministic kernels.

    A kernel that has no deterministic form is warned of by torch, once, and still used.
    """
    torch.set_num_threads(threads)
    random_state.seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN is for finding bugs; no kernel used here reads it unset.
    # (torch makes the attribute when it is imported, out of the sight of type checkers.)
    cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False


def _copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def _blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    for kept, fresh in pairs:
        if kept.is_floating_point():
            kept.lerp_(fresh, 1 - decay)
        else:
            kept.copy_(fresh)
