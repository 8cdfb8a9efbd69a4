"""Notes in the ledgers of a stage, made by this process or by one whose clock is slow."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.records.ledger import Ledger
from cluster.records.submissions import Submissions, spans_of

_ROOT = Path(__file__).parents[2]


def append(stage: Path, note: str, members: list[int]) -> None:
    """Note something: of members together where it begins so, or of each in its own ledger."""
    submissions = Submissions(stage)
    together = {
        "all queued": lambda: submissions.queued(members),
        "all sent": lambda: submissions.sent(members, "17", 0, "a.sh"),
        "all withdrawn": lambda: submissions.withdrawn(members),
        "all torn": lambda: _tear(submissions.path, members, whole=False),
        "all but the newline": lambda: _tear(submissions.path, members, whole=True),
    }
    if note in together:
        return together[note]()
    for index in members:
        path = stage / f"{index:04d}" / "ledger.jsonl"
        if note == "torn":
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as file:
                file.write('{"event": "cancel", "ti')
        else:
            Ledger(path, submissions, index)._append(note)
    return None


def told(note: str) -> list[str]:
    """The events that one member should read of a note."""
    if note == "all but the newline":
        return ["withdrawn"]
    return [] if note.endswith("torn") else [note.removeprefix("all ")]


def _tear(path: Path, members: list[int], whole: bool) -> None:
    line = json.dumps({"event": "withdrawn", "time": 1.0, "spans": spans_of(members)})
    before = path.read_bytes() if path.exists() else b""
    with path.open("a") as file:
        # What an earlier writer tore is closed first, as by whoever appends a line.
        file.write("\n" * (before[-1:] not in (b"", b"\n")) + (line if whole else line[:-1]))


class SlowClock:
    """Another process that appends; its clock is an hour slow."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def append(self, stage: Path, note: str, members: list[int]) -> None:
        """The same as :func:`append`, done when this returns."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        print(json.dumps([str(stage), note, members]), file=self._child.stdin, flush=True)
        assert self._child.stdout.readline() == "done\n"


@contextmanager
def slow_clock() -> Iterator[SlowClock]:
    """Start the other process, for the time of the block."""
    environment = os.environ | {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'tests'}"}
    command = [sys.executable, "-m", "support.noting"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as child:
        yield SlowClock(child)
        assert child.stdin is not None
        child.stdin.close()


if __name__ == "__main__":
    _now = time.time
    time.time = lambda: _now() - 3600
    for _line in sys.stdin:
        _stage, _note, _members = json.loads(_line)
        append(Path(_stage), _note, _members)
        print("done", flush=True)
