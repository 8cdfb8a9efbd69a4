"""Durable files: whole or absent, and appended a line at a time."""

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable: a rename survives a power cut only after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfenced() -> None:
    """The fence of a file that has one writer."""


@contextmanager
def replacing(path: Path, fence: Callable[[], None] = unfenced) -> Iterator[BinaryIO]:
    """Open a unique temporary file that takes the name ``path`` when the block ends well.

    The bytes are fsynced before the rename and the directory after it, so a reader, at any
    moment and after any crash, sees the old file or the new one and never a part. When the
    block raises, the temporary file is removed and ``path`` is as it was.

    Args:
        path: The name.
        fence: Called when the bytes are on disk, which can take long; it may raise as well.
    """
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            yield file
            file.flush()
            os.fsync(file.fileno())
        fence()
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_atomic(path: Path, content: bytes, fence: Callable[[], None] = unfenced) -> None:
    """Write ``content`` under ``path`` so that no one ever reads a part of it.

    Args:
        path: The file.
        content: Its bytes.
        fence: As of :func:`replacing`.
    """
    with replacing(path, fence) as file:
        file.write(content)


def fresh_size(path: Path) -> int:
    """The size of a file that other machines write to, 0 where there is none."""
    # Opened, where stat() would do on a local disk: NFS answers stat() from what it saw a while
    # ago, and asks the server again when a file is opened.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file while the block lasts; the kernel frees it if we are killed."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line durably.

    One ``write`` on an ``O_APPEND`` descriptor: concurrent writers do not mix their lines. A line
    that an earlier writer left torn is closed first, so that it spoils itself alone.
    """
    line = (json.dumps(record, sort_keys=True) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if not _ends_with_newline(descriptor):
            line = b"\n" + line
        is_new = os.fstat(descriptor).st_size == 0
        _write_whole(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        fsync_directory(path.parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the JSON objects of a file of lines, leaving out lines that a killed writer tore."""
    return [record for _, record in numbered_lines(path)]


def numbered_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same, each with the place in the file where its line ends, the newline left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    end = -1
    for line in content.split(b"\n"):
        end += 1 + len(line)
        try:
            record = json.loads(line.decode()) if line else None
        except ValueError:
            continue
        if isinstance(record, dict):
            yield end, record


def _ends_with_newline(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _write_whole(descriptor: int, content: bytes) -> None:
    # A short write happens only on a full disk; the second call then raises the reason.
    while content:
        content = content[os.write(descriptor, content) :]
