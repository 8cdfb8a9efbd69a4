"""A member's scene: the trace it leaves, the faults ordered inside it, the state it ends with.

All contenders leave the same trace, so what a fault costs is read in one way for all of them.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HOST_OOM, DEVICE_OOM = "host-oom", "device-oom"


@dataclass
class Scene:
    """The directory of one member, seen from within its process.

    Args:
        directory: Where it is.
        memory: What Slurm gives the member, MiB: an order to exceed it does so.
    """

    directory: Path
    memory: int = 0
    began: float = field(default=0.0, init=False)

    @property
    def trace_file(self) -> Path:
        return self.directory / "trace.jsonl"

    @property
    def final_file(self) -> Path:
        return self.directory / "final.pt"

    def begin(self, step: int) -> None:
        """Note that a process has resumed at a step, and when it was born."""
        self._note(pid=os.getpid(), born=psutil.Process().create_time(), resumed=step)

    def did(self, step: int) -> None:
        """Note that a step is done."""
        self._note(step=step)

    def order(self, name: str) -> None:
        """From outside: have the member meet a fault, once."""
        (self.directory / name).touch()

    def obey(self, refuse_memory: Callable[[], None]) -> None:
        """Meet what was ordered: exceed the memory, or have the device refuse some."""
        if self._ordered(HOST_OOM):
            ballast = b"\1" * ((self.memory + 64) << 20)  # the kernel kills before it is full
            raise RuntimeError(f"{len(ballast)} bytes were given: nothing limits the memory here")
        if self._ordered(DEVICE_OOM):
            refuse_memory()

    def finish(self, state: Mapping[str, Any]) -> None:
        """Leave the state that the member has ended with."""
        import torch

        scratch = self.final_file.with_suffix(".tmp")
        torch.save(dict(state), scratch)
        scratch.replace(self.final_file)

    def _ordered(self, name: str) -> bool:
        try:
            # Taken back first: what follows may leave no time to do so.
            (self.directory / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def _note(self, **fields: float) -> None:
        line = json.dumps({"time": time.time(), **fields}) + "\n"
        with self.trace_file.open("a") as file:
            file.write(line)


@dataclass
class Life:
    """One process of a member.

    Attributes:
        pid: Its number.
        born: When it was started, seconds since the epoch; imports come after that.
        resumed: The step it resumed at.
        steps: When it had done which step.
    """

    pid: int
    born: float
    resumed: int
    steps: list[tuple[float, int]] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        """Whether the process is there; a number given to a later process does not count."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and process.create_time() == self.born
        except psutil.NoSuchProcess:
            return False


class Trace:
    """The trace of a member as read so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lives: list[Life] = []
        self._offset = 0

    def read(self) -> "Trace":
        """Take in the lines that are new."""
        if self.path.exists():
            with self.path.open() as file:
                file.seek(self._offset)
                while (line := file.readline()).endswith("\n"):
                    self._take(json.loads(line))
                    self._offset = file.tell()
        return self

    @property
    def top(self) -> int:
        """The furthest step that any process has done."""
        return max((life.steps[-1][1] for life in self.lives if life.steps), default=0)

    @property
    def life(self) -> Life | None:
        """The newest process, if there has been one."""
        return self.lives[-1] if self.lives else None

    def _take(self, line: dict[str, Any]) -> None:
        if "pid" in line:
            self.lives.append(Life(line["pid"], line["born"], line["resumed"]))
        else:
            self.lives[-1].steps.append((line["time"], line["step"]))
