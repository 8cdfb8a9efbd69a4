"""Trials: points that were tried, and what came of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cluster.records.member import Member
from pipelines.config.sweep import Point

#: Below ``members``, beside the stages, but none of them: nothing of it is sent to Slurm.
TRIALS = "trial"


class SearchError(Exception):
    """The record of a search cannot be read, or is not that of this search."""


class State(StrEnum):
    """Where a trial stands; ``failed`` is one that its parameters make impossible."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """A point that is tried.

    Attributes:
        number: Of the trial, from 0.
        point: Its parameters, by dotted path.
        state: Where it stands.
        value: The objective, where it is complete.
        reported: Validations by epoch.
        worker: The member that trains it.
        steps: Steps that it took, once it has ended.
        why: Why it failed.
    """

    number: int
    point: Point
    state: State = State.RUNNING
    value: float | None = None
    reported: Mapping[int, float] = field(default_factory=dict)
    worker: int = 0
    steps: int = 0
    why: str = ""


def trial_member(run: Path, number: int) -> Member:
    """A trial, addressed as if it were a member: what it leaves lies and is named as theirs."""
    return Member(run, TRIALS, number)


def begun_trials(run: Path) -> list[Member]:
    """The trials of a run that have left anything; none where it is no adaptive search."""
    found = run.joinpath("members", TRIALS).glob("[0-9]*")
    return [trial_member(run, number) for number in sorted(int(path.name) for path in found)]


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Complete trials from the best on, then the others; of equal ones the earlier first."""

    def order(trial: Trial) -> tuple[float, int, int]:
        value = math.inf if trial.value is None else trial.value
        return value, -len(trial.reported), trial.number

    return sorted(trials, key=order)
