"""Commands of Slurm's that a test puts on PATH, and a note of how they were called."""

import os
from pathlib import Path

import pytest

RUNNING = (
    "JobId=18 ArrayJobId=17 ArrayTaskId=1 JobName=train JobState=RUNNING Reason=None "
    "EndTime=2099-01-01T00:00:00 PreemptTime=None"
)


class Commands:
    """A directory at the head of PATH with commands written as bash.

    Each call is noted before the body runs, one line a call: the command and its arguments.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.mkdir()
        self.directory = directory
        self._log = directory / "calls.log"
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def add(self, name: str, body: str) -> None:
        """Write a command; its arguments are ``$@``."""
        path = self.directory / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{self._log}"\n{body}\n')
        path.chmod(0o755)

    def calls(self, start: str = "") -> list[str]:
        """The calls so far that start with a text."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line for line in lines if line.startswith(start)]
