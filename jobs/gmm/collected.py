"""What the members of a run came to, and the classical fits that they are held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from jobs.collecting import TrainedMember, metrics, stored
from jobs.gmm.config import GmmConfig
from jobs.gmm.measuring import MEASURES, Measures, TestSet
from kernels.gmm.solve import solve

#: Steps of the classical fit that networks are held against.
EM_STEPS = 200


@dataclass(frozen=True)
class Trained(TrainedMember):
    """One member's network.

    Attributes:
        measures: What the test densities say of it.
    """

    measures: Measures


@dataclass(frozen=True)
class Collected:
    """All that is known at the end of a run.

    Attributes:
        config: The job.
        run: The run directory.
        members: Those that are whole.
        test: What they were measured on.
        classical: The same of the classical fits.
    """

    config: GmmConfig
    run: Path
    members: Sequence[Trained]
    test: TestSet
    classical: Measures

    @cached_property
    def best(self) -> Trained:
        """The member with the lowest last validation."""
        return min(self.members, key=lambda found: found.validation)


def trained_member(run: Path, index: int) -> Trained:
    measures = {name: stored(run, name, index) for name in MEASURES}
    return Trained(index, metrics(run, index), measures)


def classical_measures(config: GmmConfig, test: TestSet) -> Measures:
    """Binned EM from one start, which every user of such mixtures knows."""
    em = partial(solve, test.gridded, method="em", starts=1, budget=EM_STEPS, tolerance=0.0)
    fits = [em(k) for k in config.evaluation.components]
    found = [test.measured(fit.mixture) for fit in fits]
    return {name: torch.stack([each[name] for each in found]).numpy() for name in MEASURES}
