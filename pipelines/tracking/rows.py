"""Rows of a metrics log: what may stand in one, and the line that it is written as."""

import json
import math
from contextlib import suppress
from typing import Any, TypeAlias

Value: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Value]

VOLATILE = ("time", "attempt")
"""Fields that differ between an interrupted run and an uninterrupted one, and may."""

_RESERVED = {"step", "attempt", "time", "rewind", "image", "file"}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsError(ValueError):
    """A file that is no metrics log, or a value that cannot stand in one."""


def plain_value(name: str, value: Any) -> Value:
    """A metric as plain Python.

    Raises:
        MetricsError: Its name is reserved, or it is no scalar.
    """
    if name in _RESERVED:
        raise MetricsError(f"the metric {name!r} has a reserved name; choose another")
    if type(value) not in (bool, int, float, str, type(None)) and hasattr(value, "item"):
        with suppress(ValueError, RuntimeError):  # NumPy's and torch's words for "no scalar"
            value = value.item()
    if not isinstance(value, bool | int | float | str | None):
        raise MetricsError(f"the metric {name!r} must be a scalar, found {type(value).__name__}")
    return value


def encode_row(row: Row) -> bytes:
    """The line of a row."""
    encoded = {name: _encode(value) for name, value in row.items()}
    return (json.dumps(encoded, allow_nan=False) + "\n").encode()


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The row of a line, its values still encoded; None where the line is no row."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if isinstance(row, dict) and all(isinstance(row.get(k), int) for k in ("step", "attempt")):
        return row
    return None


def decode_value(value: Value) -> Value:
    """A value as it was before it was encoded."""
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def _encode(value: Value) -> Value:
    """JSON has no NaN and no infinity: they travel as strings."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
