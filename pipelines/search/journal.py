"""The journal of a search: a file of JSON lines that workers on many nodes append to.

It is what Optuna's ``JournalStorage`` replays, and Optuna's own file backend reads it too. This one
differs in three ways. Its lock is the kernel's, which a killed holder loses at once, which works on
NFS (there it is a byte-range lock, and taking it makes the client read anew what others wrote), and
which can be held over reading and writing. Records that belong together are one write. A last line
that was torn is taken off before the next one is written, so that it spoils nothing.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from cluster.records.files import fsync_directory, locked, unfenced
from pipelines.search.trials import SearchError


class Journal(BaseJournalBackend):
    """A backend of Optuna's ``JournalStorage``.

    Args:
        path: The file; it is made by the first record.
        fence: Called before anything is written; it raises where another attempt works here.
    """

    def __init__(self, path: Path, fence: Callable[[], None] = unfenced) -> None:
        self.path, self.fence = path, fence
        self._turn = False
        self._batch: list[dict[str, Any]] | None = None
        self._read, self._offset = 0, 0  # records read, and where the next one begins

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one to write while the block lasts, so that what was read stays true."""
        if self._turn:
            yield
            return
        with locked(self.path.with_suffix(".lock")):
            self._turn = True
            try:
                yield
            finally:
                self._turn = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all records of the block at once when it ends well, and none if it does not."""
        self._batch = []
        try:
            yield
            records, self._batch = self._batch, None
            self.append_logs(records)
        finally:
            self._batch = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records durably.

        Raises:
            OSError: The disk refused them.
        """
        if self._batch is not None:
            self._batch += logs
            return
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.turn():
            self.fence()
            _append(self.path, lines.encode())

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Records from a number on; what has no line end yet does not count.

        Raises:
            SearchError: A line is no record.
        """
        if log_number_from != self._read:
            self._read = self._offset = 0
        try:
            file = self.path.open("rb")  # not exists(): NFS remembers for a while
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                number, self._read = self._read, self._read + 1
                self._offset += len(line)
                if number >= log_number_from:
                    yield self._record(number, line)

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise SearchError(
                f"{self.path}:{number + 1}: expected a record of a search, found {line[:40]!r}. "
                "The file was damaged: put back a copy of it, or start the search in another "
                "directory with --runs."
            )
        return record


def _append(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        whole = _whole(descriptor)
        os.ftruncate(descriptor, whole)
        try:
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, whole)  # a part of what belongs together would be believed
            raise
    finally:
        os.close(descriptor)
    if whole == 0:
        fsync_directory(path.parent)


def _whole(descriptor: int) -> int:
    """Bytes up to the last line end."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 4096)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
