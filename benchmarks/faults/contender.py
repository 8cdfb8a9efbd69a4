"""What a campaign asks of a tool that is put through it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]


class Contender(Protocol):
    """A tool, with its array of members."""

    name: str

    def disk(self, member: int) -> Path:
        """Where it keeps the checkpoints of a member."""

    def submit(self) -> None:
        """Send all members, as one array."""

    def job(self, member: int) -> str:
        """Slurm's id of a member, e.g. ``17_3``."""

    def done(self, member: int) -> bool:
        """What a program asks that waits for the result; a tool may use the chance to help."""

    def start_again(self, member: int) -> bool:
        """Do what the tool's user would about a member that Slurm no longer has.

        Returns:
            False if the tool has no command for that.
        """


def module_environment() -> dict[str, str]:
    """An environment in which the nodes find this package, with one thread a process."""
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(place for place in places if place)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run_twin(contender: str, arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start the unfaulted twin of a member: the same code, outside Slurm and without pauses."""
    inherited = module_environment()
    environment = {k: v for k, v in inherited.items() if not k.startswith("SLURM_")}
    module = f"benchmarks.faults.with_{contender}"
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)
