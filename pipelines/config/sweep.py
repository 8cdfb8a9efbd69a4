"""Sweeps: lists of values in a configuration, and the points of the grid that they span."""

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue, PositiveInt

from pipelines.config.fields import Config
from pipelines.config.loader import ConfigError
from pipelines.config.resolve import with_values

Point = Mapping[str, JsonValue]
"""Values by dotted path."""


class SweptConfig(Config):
    """A job with members at every point of a sweep, one a seed: those of a point follow each other.

    Attributes:
        seed: All randomness follows from it.
        seeds: Networks of each point of the sweep, trained from different seeds.
        sweep: Lists of values to try in the place of those below, in every combination.
    """

    seed: int = 0
    seeds: PositiveInt = 1
    if TYPE_CHECKING:  # each job declares it, at its own place among the fields
        sweep: dict[str, JsonValue]

    @property
    def points(self) -> list[Point]:
        """The points of the sweep."""
        return grid(self.sweep)

    @property
    def members(self) -> int:
        """Networks in all."""
        return len(self.points) * self.seeds

    def seed_number(self, member: int) -> int:
        """Which of the seeds a member has; every point of the sweep has the same ones."""
        return member % self.seeds

    def point_of(self, member: int) -> Point:
        """The point of the sweep that a member stands for."""
        return self.points[member // self.seeds]

    def member_config(self, member: int) -> Self:
        """The configuration of one member: the job's, with the values of its point."""
        return with_values(self._unswept(), self.point_of(member))

    def _check_sweep(self, sections: Collection[str]) -> None:
        if self.sweep:
            check_sweep(self._unswept(), self.sweep, sections)

    def _unswept(self) -> Self:
        return self.model_copy(update={"sweep": {}})


def grid(sweep: Mapping[str, JsonValue]) -> list[Point]:
    """All combinations of the values of a sweep; the last key runs fastest.

    Args:
        sweep: A part of a configuration in which each value is a list of values to take, such as
            ``{training: {learning_rate: [1e-3, 3e-3]}}``. An empty one has one point.

    Raises:
        ValueError: A value is no list, or an empty one.
    """
    axes = dict(_axes(sweep, ""))
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def check_sweep(config: Config, sweep: Mapping[str, JsonValue], sections: Collection[str]) -> None:
    """Make sure that every point of a sweep is a configuration; for a validator of the model.

    Args:
        config: The configuration, its own sweep left out.
        sweep: What is swept.
        sections: The sections, or values at the top, in which values may be swept.

    Raises:
        ValueError: Not so, with every problem found.
    """
    wrong = sorted(set(sweep) - set(sections))
    if wrong:
        raise ValueError(f"expected to sweep values of {', '.join(sections)}; found {wrong[0]!r}")
    problems: dict[str, None] = {}
    for point in grid(sweep):
        try:
            with_values(config, point)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ValueError("; ".join(problems))


def _axes(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, list[JsonValue]]]:
    for key, value in tree.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _axes(value, f"{path}.")
        elif isinstance(value, list) and value:
            yield path, value
        else:
            raise ValueError(f"{path}: expected a list of values to sweep, found {value!r}")
