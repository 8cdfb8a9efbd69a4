"""Reading a metrics log: the rows and images that count, however often the member fell."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.tracking.rows import MetricsError, Row, decode_value, parse_row


def read_metrics(path: str | Path, *, without: Collection[str] = ()) -> list[Row]:
    """The rows that count, in order: those of an uninterrupted run, however often it fell.

    A rewind drops the rows before it whose step lies beyond it; for a step that several attempts
    logged all the same, the latest attempt's rows stay. A torn last line is passed over.

    Args:
        path: A ``metrics.jsonl``; it is not changed.
        without: Fields to leave out; with :data:`VOLATILE`, equal runs give equal rows.

    Raises:
        MetricsError: If a line before the last is no row.
        FileNotFoundError: If there is no such file.
    """
    return [
        {name: decode_value(value) for name, value in row.items() if name not in without}
        for row in _counting(Path(path))
        if "image" not in row
    ]


@dataclass(frozen=True)
class LoggedImage:
    """An image of the log.

    Attributes:
        step: How many steps were done.
        name: The series it belongs to.
        file: Its PNG file.
    """

    step: int
    name: str
    file: Path


def read_images(path: str | Path) -> list[LoggedImage]:
    """The images that count, by the same rules as :func:`read_metrics` and with its errors."""
    path = Path(path)
    return [
        LoggedImage(row["step"], row["image"], path.parent / row["file"])
        for row in _counting(path)
        if "image" in row
    ]


def _counting(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in _rows(path):
        if "rewind" in row:
            rows = [kept for kept in rows if kept["step"] <= row["step"]]
        else:
            rows.append(row)
    latest: dict[int, int] = {}
    for row in rows:
        latest[row["step"]] = max(row["attempt"], latest.get(row["step"], row["attempt"]))
    return [row for row in rows if row["attempt"] == latest[row["step"]]]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        row = parse_row(line)
        if row is not None:
            yield row
        elif number < len(lines):
            raise MetricsError(f"{path}:{number}: expected a row of metrics, found {line[:60]!r}")
