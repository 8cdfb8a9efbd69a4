"""Sweeps: lists of values in a configuration, and the points of the grid that they span."""

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from pydantic import JsonValue

from pipelines.config.fields import Config
from pipelines.config.loader import ConfigError
from pipelines.config.resolve import with_values

Point = Mapping[str, JsonValue]
"""Values by dotted path."""


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
