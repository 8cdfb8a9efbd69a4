"""Processes by number, told apart from a later process that got the same number."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from cluster.records.machine import after_name


def arguments(pid: int) -> list[str]:
    """Command line of a process; empty once it is gone, a zombie, or a kernel thread.

    It is empty as well for the moment, longer where the disk is slow, in which the process becomes
    another program: see :func:`gone`.
    """
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    fields = after_name(pid)
    return not fields or fields[0] in "ZX"


def environment_has(pid: int, assignment: str) -> bool | None:
    """Whether a process started with ``NAME=value`` in its environment.

    None where this user may not look: another user's process, or one that is gone.
    """
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    return assignment.encode() in raw.split(b"\0")


def working_directory(pid: int) -> Path | None:
    """Where a process is, or None where this user may not look."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def running() -> list[int]:
    """The number of every process on the machine."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def descendants(roots: Iterable[int]) -> set[int]:
    """The processes that ``roots`` started, and those that they started, and so on."""
    children: dict[int, list[int]] = {}
    for pid in running():
        children.setdefault(_parent(pid), []).append(pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        for child in children.get(pending.pop(), []):
            found.add(child)
            pending.append(child)
    return found


def listens_on_port(port: int) -> bool:
    """Whether any process listens on this TCP port of an IPv4 address."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in rows)


def _parent(pid: int) -> int:
    fields = after_name(pid)
    return int(fields[1]) if fields else 0


def pid_in(path: Path) -> int | None:
    """The number in a pid file, or None where there is no file or no number in it."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie counts as dead."""
    return bool(arguments(pid))


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def wait_gone(pids: Iterable[int], timeout: float) -> list[int]:
    """Wait until the processes are gone; return those that still run after ``timeout`` seconds."""
    left = [pid for pid in pids if alive(pid)]
    deadline = time.monotonic() + timeout
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if alive(pid)]
    return left


def terminate(pids: Iterable[int], patience: float = 15.0) -> None:
    """Ask the processes to end, then make them: SIGTERM, ``patience`` seconds, SIGKILL."""
    chosen = list(pids)
    send(chosen, signal.SIGTERM)
    kill(wait_gone(chosen, patience))


def kill(pids: Iterable[int], patience: float = 15.0) -> None:
    """SIGKILL the processes and wait until the kernel has let go of them."""
    chosen = list(pids)
    send(chosen, signal.SIGKILL)
    wait_gone(chosen, patience)
