"""The space of a search: choices and ranges by dotted path, and points drawn from it."""

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import JsonValue

from pipelines.config import Config, ConfigError, with_values
from pipelines.config.sweep import Point

_RANGE_KEYS = {"low", "high", "log", "step"}
#: Digits of a drawn number. Logarithms may differ in the last bit from machine to machine, and
#: a member has to draw what the machine that submitted it did.
_DIGITS = 6


@dataclass(frozen=True)
class Choice:
    """Values of which one is taken, all equally likely."""

    values: tuple[JsonValue, ...]

    def at(self, share: float) -> JsonValue:
        """The value at a share in [0, 1) of the choice."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        """Values that together show whether all are possible."""
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where both are.

    Attributes:
        low: The smallest.
        high: The largest.
        log: Whether it is the logarithm that is uniform.
        step: From one whole number to the next.

    Raises:
        ValueError: There is no such range.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"expected finite low < high, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"expected low > 0 for log: true, found {self.low}")
        if self.step != 1 and (self.log or not self.whole):
            raise ValueError("expected a step with whole numbers and without log alone")
        if self.whole and (self.step < 1 or (self.high - self.low) % self.step):
            raise ValueError(
                f"expected a step that leads from {self.low} to {self.high}, found {self.step}"
            )

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> JsonValue:
        """The number at a share in [0, 1) of the range."""
        high = self.high + self.step if self.whole else self.high
        if self.log:
            number = math.exp(math.log(self.low) + share * math.log(high / self.low))
        else:
            number = self.low + share * (high - self.low)
        if not self.whole:
            return min(max(float(f"{number:.{_DIGITS}g}"), float(self.low)), float(self.high))
        steps = math.floor((number - self.low) / self.step)
        return int(min(max(self.low + steps * self.step, self.low), self.high))

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        """Values that together show whether all are possible."""
        return self.low, self.high


Axis: TypeAlias = Choice | Range
Space: TypeAlias = Mapping[str, Axis]
"""Axes by dotted path."""


def read_space(sweep: Mapping[str, JsonValue]) -> Space:
    """The space of a sweep.

    Args:
        sweep: A part of a configuration in which each value is a list of values to choose from,
            or a range such as ``{low: 1e-4, high: 1e-2, log: true}`` or ``{low: 16, high: 128,
            step: 16}``.

    Raises:
        ValueError: A value is neither.
    """
    return dict(_axes(sweep, ""))


def draw(space: Space, seed: int, number: int) -> Point:
    """The point of a trial of a random search.

    It is a function of these alone, and the value on an axis one of seed, number and the axis, so
    it matters neither who draws it nor which other axes there are.
    """
    return {
        path: axis.at(random.Random(f"{seed}/{number}/{path}").random())
        for path, axis in space.items()
    }


def check_space(config: Config, space: Space, sections: Collection[str]) -> None:
    """Make sure that every value of a space is possible; for a validator of the model.

    A value is refused if it is with the others as configured, at their first and at their last
    end. Combinations that are impossible show when they are tried.

    Args:
        config: The configuration, its own sweep left out.
        space: What is searched.
        sections: The sections, or values at the top, that may be searched.

    Raises:
        ValueError: Not so, with every problem found.
    """
    wrong = sorted(path for path in space if path.split(".")[0] not in sections)
    if wrong:
        raise ValueError(
            f"expected to search values of {', '.join(sections)}; found {wrong[0]!r}. Others "
            "change what is measured, so that trials could not be compared: sweep them as a grid"
        )
    corners: Sequence[Point] = [
        {},
        *({path: axis.ends[end] for path, axis in space.items()} for end in (0, -1)),
    ]
    problems: dict[str, None] = {}
    for path, axis in space.items():
        for value in axis.ends:
            found = (_problems(config, {**corner, path: value}) for corner in corners)
            first = next(found)
            if first and all(found):
                problems |= dict.fromkeys(first)
    if problems:
        raise ValueError("; ".join(problems))


def _problems(config: Config, point: Point) -> Sequence[str]:
    try:
        with_values(config, point)
    except ConfigError as error:
        return error.problems
    return ()


def _axes(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, Axis]]:
    for key, value in tree.items():
        path = f"{above}{key}"
        if isinstance(value, list) and value:
            yield path, Choice(tuple(value))
        elif isinstance(value, Mapping) and {"low", "high"} <= set(value) <= _RANGE_KEYS:
            yield path, _range(path, value)
        elif isinstance(value, Mapping) and not set(value) & _RANGE_KEYS:
            yield from _axes(value, f"{path}.")
        else:
            raise ValueError(
                f"{path}: expected a list of values or a range such as {{low: 1e-4, high: 1e-2, "
                f"log: true}}, found {value!r}"
            )


def _range(path: str, value: Mapping[str, Any]) -> Range:
    kinds: Mapping[str, Any] = {"low": (int, float), "high": (int, float), "log": bool, "step": int}
    for key, found in value.items():
        if not isinstance(found, kinds[key]) or (key != "log" and isinstance(found, bool)):
            kind = "true or false" if key == "log" else "a number"
            raise ValueError(f"{path}.{key}: expected {kind}, found {found!r}")
    try:
        return Range(**value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
