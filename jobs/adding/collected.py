"""What the members of a run came to, point by point of its sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from jobs.adding.config import AddingConfig
from jobs.outputs import ensemble_path

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Trained:
    """What one member came to.

    Attributes:
        index: Of the member.
        steps: Of its validations, (K).
        validation: Its MSEs, (K).
        prediction: Of the validation sequences, (N).
        sums: What these come to, (N).
        test: MSE on the test sequences.
    """

    index: int
    steps: Array
    validation: Array
    prediction: Array
    sums: Array
    test: float

    @property
    def final(self) -> float:
        """MSE of its last validation."""
        return float(self.validation[-1])

    @property
    def variance(self) -> float:
        """MSE of who always says the mean of the validation sequences."""
        return float(self.sums.astype(np.float64).var())

    def steps_to(self, level: float) -> int | None:
        """Steps until its validation was first below a level, or None."""
        below = np.flatnonzero(self.validation < level)
        return int(self.steps[below[0]]) if below.size else None


@dataclass(frozen=True)
class Point:
    """The members of one point of the sweep, one a seed.

    Attributes:
        name: Its contestant, and whatever else the sweep varies but the length.
        config: The configuration of these members.
        members: Those that are whole.
    """

    name: str
    config: AddingConfig
    members: Sequence[Trained]

    @property
    def middle(self) -> Trained:
        """The median member by steps to the goal, then by the last validation; of two the better.

        Those that have reached the goal stopped there: their last validations tell little.
        """
        goal = self.config.task.goal

        def order(member: Trained) -> tuple[float, bool, float]:
            steps = member.steps_to(goal)
            return np.inf if steps is None else steps, bool(np.isnan(member.final)), member.final

        ranked = sorted(self.members, key=order)
        return ranked[(len(ranked) - 1) // 2]

    def reached(self) -> int:
        """Members that have learned their task."""
        goal = self.config.task.goal
        return sum(member.steps_to(goal) is not None for member in self.members)

    def median_steps(self, level: float) -> float | None:
        """Median of the steps to a level, or None where half of the members never get there."""
        found = [member.steps_to(level) for member in self.members]
        median = float(np.median([np.inf if steps is None else steps for steps in found]))
        return median if np.isfinite(median) else None


def points_of(config: AddingConfig, run: Path, members: Sequence[int]) -> list[Point]:
    """The points of the sweep that have members, in the order of the sweep."""
    group: Any = zarr.open_group(ensemble_path(run), mode="r")
    by_point: dict[int, list[Trained]] = {}
    for index in members:
        by_point.setdefault(index // config.seeds, []).append(_trained(group, index))
    return [
        Point(_name(config, found[0].index), config.member_config(found[0].index), found)
        for found in by_point.values()
    ]


def _trained(group: Any, index: int) -> Trained:
    step = group["step"][index]
    done = np.isfinite(step)
    return Trained(
        index,
        step[done],
        group["validation"][index][done],
        group["prediction"][index],
        group["sum"][index],
        float(group["test"][index]),
    )


def _name(config: AddingConfig, member: int) -> str:
    values: Mapping[str, Any] = config.point_of(member)
    others = [
        f"{path.split('.')[-1]}={value}"
        for path, value in values.items()
        if path not in ("contestant", "length")
    ]
    return " ".join([config.member_config(member).contestant, *others])
