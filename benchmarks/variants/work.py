"""What a member does that faults befall: the job's own training, on a scene."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmarks.faults.scene import Scene
from cluster import Attempt, Member
from cluster.attempt import Work
from cluster.checkpoints import random_state
from jobs.collecting import stored
from jobs.lstm import training
from jobs.lstm.config import LstmConfig
from jobs.lstm.evaluation import layout
from jobs.lstm.sites import read_records
from kernels.lstm import StaticDynamicLSTM


class SceneAttempt:
    """An attempt that leaves a trace of its steps and obeys its scene between them.

    Args:
        attempt: The attempt; whatever is not told of here is its own.
        scene: Of the member.
        pace: Seconds that a step is drawn out by.
    """

    def __init__(self, attempt: Attempt, scene: Scene, pace: float) -> None:
        self._attempt, self._scene, self._pace = attempt, scene, pace
        self.work: Work | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attempt, name)

    def steps(self, work: Work) -> Iterator[int]:
        self.work = work
        self._scene.begin(work.steps_done)
        for step in self._attempt.steps(work):
            self._scene.obey(refuse_memory_once)
            time.sleep(self._pace)
            yield step
            self._scene.did(work.steps_done)


def train(
    config: LstmConfig, scene: Scene, pace: float, member: Member, attempt: Attempt
) -> dict[str, float]:
    """Train as the job does, and leave behind on the scene what the member has come to."""
    staged = SceneAttempt(attempt, scene, pace)
    told = training.train(config, member, cast(Attempt, staged))
    assert staged.work is not None
    scene.finish(final_state(config, member, staged.work))
    return told


def final_state(config: LstmConfig, member: Member, work: Work) -> dict[str, Any]:
    """Weights, optimizer, averages, counters, generators, and all that went into the ensemble.

    Without the learned microbatch, which an out-of-memory rightly changes.
    """
    state = {name: value for name, value in work.state_dict().items() if name != "accumulator"}
    specs = layout(config, read_records(config, member.run))
    arrays = {spec.name: stored(member.run, spec.name, member.index) for spec in specs}
    return {**state, "random": random_state.capture(), "ensemble": _bits(arrays)}


def refuse_memory_once() -> None:
    """Let the network's next pass run out of memory as on a GPU."""

    def refuse(module: nn.Module, _inputs: object) -> None:
        if isinstance(module, StaticDynamicLSTM):
            handle.remove()
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    handle = register_module_forward_pre_hook(refuse)


def _bits(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Arrays of fp32 as whole numbers: what is NaN equals itself."""
    return {name: torch.from_numpy(values).view(torch.int32) for name, values in arrays.items()}
