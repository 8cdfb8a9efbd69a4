"""The mixture job in seconds, and its training with a bad batch."""

import sys
from pathlib import Path
from unittest.mock import patch

import cloudpickle
import torch
from torch import Tensor

from cluster import Attempt, Member
from jobs.catalog import WORKLOADS
from jobs.gmm.config import GmmConfig
from jobs.gmm.densities import Stored
from jobs.gmm.training import train
from pipelines.plan import Plan

cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: The step whose densities :func:`train_spoiled` damages.
BAD_STEP = 13


def resolved(*overrides: str, preset: str = "smoke") -> GmmConfig:
    """A configuration of the job."""
    found = WORKLOADS["gmm"].resolve(preset, overrides).config
    assert isinstance(found, GmmConfig)
    return found


def gmm_plan(runs: Path, *overrides: str) -> Plan:
    """The plan of a small job."""
    return WORKLOADS["gmm"].plan(resolved(*overrides), runs)


def train_spoiled(config: GmmConfig, member: Member, attempt: Attempt) -> dict[str, float]:
    """Train, with a NaN in one step."""
    whole = Stored.densities

    def densities(self: Stored, step: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        masses, edges = whole(self, step, draws)
        if step == BAD_STEP:
            masses[3, 4] = torch.nan
        return masses, edges

    with patch.object(Stored, "densities", densities):
        return train(config, member, attempt)
