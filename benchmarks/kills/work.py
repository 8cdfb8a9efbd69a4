"""What the members do: a few steps, each of them saved, then two shards and a commit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster import Attempt, Member
from cluster.checkpoints import random_state
from pipelines.ensemble import ArraySpec, create_ensemble, gather_provenance, write_member

CONFIGURATION = "kills"
STEPS = 4
ARRAYS = (
    ArraySpec("u", (8, 64, 64), ("time", "y", "x"), long_name="field"),
    ArraySpec("energy", (STEPS,), ("step",), "float64", codec="lz4-bitshuffle"),
)


class Walk:
    """A field that takes random steps; it draws from a global generator, as training does."""

    def __init__(self, seed: int) -> None:
        torch.set_num_threads(1)
        random_state.seed(seed)
        self.field = torch.zeros(ARRAYS[0].shape)
        self.energy: list[float] = []
        self.steps_total = STEPS

    @property
    def steps_done(self) -> int:
        return len(self.energy)

    def step(self) -> None:
        self.field = 0.9 * self.field + torch.randn(self.field.shape)
        self.energy.append(float(self.field.double().square().mean()))

    def state_dict(self) -> Mapping[str, Any]:
        return {"field": self.field, "energy": self.energy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.field, self.energy = state["field"], list(state["energy"])

    def arrays(self) -> dict[str, Any]:
        return {"u": self.field.numpy(), "energy": np.array(self.energy)}


def ensemble_path(run: Path) -> Path:
    return run / "ensemble.zarr"


def plan(run: Path, members: int) -> Path:
    create_ensemble(ensemble_path(run), members, ARRAYS, {"config_digest": CONFIGURATION})
    return ensemble_path(run)


def walk(member: Member, attempt: Attempt) -> None:
    """One attempt of a member, as a job of ours would make it."""
    work = Walk(member.index)
    attempt.restore(work)
    for _ in attempt.steps(work):
        work.step()
    provenance = gather_provenance(CONFIGURATION, member.index)
    path = ensemble_path(member.run)
    write_member(path, member.index, work.arrays(), provenance, attempt.number)
