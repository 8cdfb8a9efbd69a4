"""The command line as a user's shell starts it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.records.member import Member
from cluster.stage import load_stages

COMMAND = (sys.executable, "-P", "-m", "jobs.cli")

#: The job in seconds; every step of the training is saved, so there are checkpoints to spoil.
SMOKE = ("diffusion", "resources.train.checkpoint_seconds=0.001", "--preset", "smoke")

_MADE_BY = {"train": ["weights"], "assimilate": ["ensemble.zarr", "commits"], "collect": ["report"]}


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)


def yaoki(*arguments: object, cwd: Path | None = None) -> Done:
    """Run a command to its end; whatever it ends with, it is never a traceback."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def run_of(runs: Path) -> Path:
    """The only run directory in a directory of runs."""
    (run,) = (path.parent for path in runs.glob("*/plan.yaml"))
    return run


def tree(directory: Path) -> dict[str, bytes | None]:
    """Every path below a directory, files with their bytes."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def processes_of(run: Path) -> Iterator[psutil.Process]:
    """Processes with the run directory on their command line: its members at work."""
    for process in psutil.process_iter(["cmdline"]):
        if str(run) in (process.info["cmdline"] or []):
            yield process


def copy_until(run: Path, runs: Path, stage: str) -> Path:
    """A copy of a run as it was when a stage had ended, and none after it begun."""
    copy = runs / run.name
    shutil.copytree(run, copy)
    stages = load_stages(copy)
    order = next(found.order for found in stages if found.name == stage)
    for later in (found for found in stages if found.order > order):
        shutil.rmtree(later.directory)
        for made in _MADE_BY.get(later.name, ()):
            shutil.rmtree(copy / made, ignore_errors=True)
    return copy


def forget_end(member: Member) -> None:
    """Let the ledger read as if the last attempt had been killed, its end noted by nobody."""
    path = member.ledger.path
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert events[-1]["event"] == "end"
    path.write_text("".join(json.dumps(event) + "\n" for event in events[:-1]))


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
