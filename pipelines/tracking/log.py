"""The append-only file of a member's metrics."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from cluster.records.files import fsync_directory, write_atomic
from pipelines.tracking.rows import MetricsError, Row, encode_row, parse_row, plain_value

if TYPE_CHECKING:
    from pipelines.pictures import Pixels


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
        plain = {name: plain_value(name, value) for name, value in values.items()}
        self._append({"step": int(step), **self._stamp(), **plain})
        return plain

    def log_image(self, name: str, image: "Pixels", step: int) -> None:
        """Keep an image, :math:`(H, W, 3)`, in a file of its own, and append a row that names it.

        Raises:
            OSError: If the disk is full.
        """
        # An attempt that comes by here again writes the same name.
        file = Path("images", f"{quote(name, safe='')}-{int(step):08d}.png")
        from pipelines.pictures import encode_png  # with numpy, which most commands do without

        directory = self.path.parent / file.parent
        directory.mkdir(exist_ok=True)
        write_atomic(self.path.parent / file, encode_png(image))
        named: Row = {"image": name, "file": str(file)}
        self._append({"step": int(step), **self._stamp(), **named})

    def rewind(self, step: int) -> None:
        """Declare that this attempt continues from ``step``: readers drop older rows beyond it."""
        self._append({"step": int(step), **self._stamp(), "rewind": True})

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
        line = encode_row(row)
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


def _repair(path: Path) -> None:
    """Cut off what a kill or a power cut left after the last whole row."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = len(lines)
    while whole and parse_row(lines[whole - 1]) is None:
        whole -= 1
    if whole == 0 and len(lines) > 1:
        raise MetricsError(f"{path}: expected a metrics log, found no row in it; move it away")
    with path.open("r+b") as file:
        file.truncate(sum(map(len, lines[:whole])))
        if whole and not lines[whole - 1].endswith(b"\n"):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
