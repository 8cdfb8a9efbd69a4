"""Metrics of a member: one append-only file that is the truth, and sinks that may fail.

``metrics.jsonl`` holds one JSON object a line (see ``docs/tracking.md``), and names the images
beside it. Sinks such as Weights & Biases and TensorBoard (:mod:`pipelines.sinks`) show the same;
they never stop a run.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias
from urllib.parse import quote

from numpy.typing import NDArray

from cluster.files import fsync_directory, write_atomic
from pipelines.pictures import Pixels, encode_png, pixels

Value: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Value]

VOLATILE = ("time", "attempt")
"""Fields that differ between an interrupted run and an uninterrupted one, and may."""

_RESERVED = {"step", "attempt", "time", "rewind", "image", "file"}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_log = logging.getLogger(__name__)


class MetricsError(ValueError):
    """A file that is no metrics log, or a value that cannot stand in one."""


class MetricsLog:
    """The append-only ``metrics.jsonl`` of a member.

    Each row is one ``write`` to the system: once :meth:`log` returns, killing the process cannot
    lose it. A power cut can, up to the last :meth:`sync`. A line torn by a kill is removed here,
    when the next attempt opens the file.

    Args:
        path: The file; it and its directory are created.
        attempt: The number of this execution of the member, higher than any before it.

    Raises:
        MetricsError: If the file exists and is no metrics log.
    """

    def __init__(self, path: str | Path, attempt: int = 0) -> None:
        self.path, self.attempt = Path(path), attempt
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _repair(self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def log(self, step: int, values: Mapping[str, Any]) -> Row:
        """Append the values of a step and return them as plain Python.

        Args:
            step: How many steps are done.
            values: Numbers, strings, None, or NumPy and torch scalars, by name.

        Raises:
            MetricsError: If a name is reserved or a value is no scalar.
            OSError: If the disk is full; the file is then as it was before the call.
        """
        plain = {name: _plain(name, value) for name, value in values.items()}
        self._append({"step": int(step), **self._stamp(), **plain})
        return plain

    def log_image(self, name: str, image: Pixels, step: int) -> None:
        """Keep an image, :math:`(H, W, 3)`, in a file of its own, and append a row that names it.

        Raises:
            OSError: If the disk is full.
        """
        # An attempt that comes by here again writes the same name.
        file = Path("images", f"{quote(name, safe='')}-{int(step):08d}.png")
        directory = self.path.parent / file.parent
        directory.mkdir(exist_ok=True)
        write_atomic(self.path.parent / file, encode_png(image))
        named: Row = {"image": name, "file": str(file)}
        self._append({"step": int(step), **self._stamp(), **named})

    def rewind(self, step: int) -> None:
        """Declare that this attempt continues from ``step``: readers drop older rows beyond it."""
        self._append({"rewind": int(step), **self._stamp()})

    def sync(self) -> None:
        """Make all rows durable. Call it before a checkpoint that relies on them."""
        os.fsync(self._file)
        fsync_directory(self.path.parent)

    def close(self) -> None:
        """Make all rows durable and close the file; a second call does nothing."""
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stamp(self) -> Row:
        return {"attempt": self.attempt, "time": time.time()}

    def _append(self, row: Row) -> None:
        encoded = {name: _encode(value) for name, value in row.items()}
        line = (json.dumps(encoded, allow_nan=False) + "\n").encode()
        size = os.fstat(self._file).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, size)  # a half row would spoil the rows after it
            raise OSError(
                error.errno, f"cannot append metrics: {error.strerror}", str(self.path)
            ) from error


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
        {name: _decode(value) for name, value in row.items() if name not in without}
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


class Sink(Protocol):
    """A place that shows metrics; any exception it raises turns it off for the rest of the run."""

    def rewind(self, step: int) -> None:
        """Forget everything beyond ``step``; called before the first row of an attempt."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Show the values of a step."""

    def log_image(self, name: str, image: Pixels, step: int) -> None:
        """Show an image, :math:`(H, W, 3)`."""

    def sync(self) -> None:
        """Hand on what is held back; called before a checkpoint."""

    def close(self) -> None:
        """Flush and let go."""


class Tracker:
    """Writes every row to the metrics log first, then offers it to each sink."""

    def __init__(self, metrics: MetricsLog, sinks: Iterable[Sink] = ()) -> None:
        self.metrics = metrics
        self._sinks = list(sinks)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the values of a step; raises as :meth:`MetricsLog.log` does."""
        plain = self.metrics.log(step, values)
        self._offer(lambda sink: sink.log(step, plain))

    def log_image(self, name: str, image: NDArray[Any], step: int) -> None:
        """Log an image.

        Args:
            name: The series it belongs to.
            image: :math:`(H, W)` or :math:`(H, W, 3)`, either uint8 or floats in [0, 1].
            step: How many steps are done.

        Raises:
            ValueError: If the array has another shape.
        """
        plain = pixels(name, image)
        self.metrics.log_image(name, plain, step)
        self._offer(lambda sink: sink.log_image(name, plain, step))

    def rewind(self, step: int) -> None:
        """Continue from ``step``, before the first row of a resumed attempt."""
        self.metrics.rewind(step)
        self._offer(lambda sink: sink.rewind(step))

    def sync(self) -> None:
        """Make all rows durable, before a checkpoint."""
        self.metrics.sync()
        self._offer(lambda sink: sink.sync())

    def close(self) -> None:
        """Close the log and every sink."""
        self.metrics.close()
        self._offer(lambda sink: sink.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offer(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._sinks):
            try:
                call(sink)
            except Exception as error:
                self._sinks.remove(sink)
                name = type(sink).__name__
                _log.warning("%s is off from here on: %r (metrics.jsonl goes on)", name, error)


def _repair(path: Path) -> None:
    """Cut off what a kill or a power cut left after the last whole row."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = len(lines)
    while whole and _parse(lines[whole - 1]) is None:
        whole -= 1
    if whole == 0 and len(lines) > 1:
        raise MetricsError(f"{path}: expected a metrics log, found no row in it; move it away")
    with path.open("r+b") as file:
        file.truncate(sum(map(len, lines[:whole])))
        if whole and not lines[whole - 1].endswith(b"\n"):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _counting(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in _rows(path):
        if "rewind" in row:
            rows = [kept for kept in rows if kept["step"] <= row["rewind"]]
        else:
            rows.append(row)
    latest: dict[int, int] = {}
    for row in rows:
        latest[row["step"]] = max(row["attempt"], latest.get(row["step"], row["attempt"]))
    return [row for row in rows if row["attempt"] == latest[row["step"]]]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            yield row
        elif number < len(lines):
            raise MetricsError(f"{path}:{number}: expected a row of metrics, found {line[:60]!r}")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    known = isinstance(row, dict) and "attempt" in row and ("step" in row or "rewind" in row)
    return row if known else None


def _plain(name: str, value: Any) -> Value:
    if name in _RESERVED:
        raise MetricsError(f"the metric {name!r} has a reserved name; choose another")
    if type(value) not in (bool, int, float, str, type(None)) and hasattr(value, "item"):
        with suppress(ValueError, RuntimeError):  # NumPy's and torch's words for "no scalar"
            value = value.item()
    if not isinstance(value, bool | int | float | str | None):
        raise MetricsError(f"the metric {name!r} must be a scalar, found {type(value).__name__}")
    return value


def _encode(value: Value) -> Value:
    """JSON has no NaN and no infinity: they travel as strings."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(value: Value) -> Value:
    return _SPECIAL.get(value, value) if isinstance(value, str) else value
