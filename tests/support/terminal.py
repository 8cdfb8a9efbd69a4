"""A command at a terminal, and what its user sees and types."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_MOVES_UP = re.compile(r"(?:\x1b\[1A\x1b\[2K)+")
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command that runs on a pseudo-terminal of its own.

    Args:
        command: The command and its arguments.
        rows: Lines of the terminal.
        columns: Characters of a line.
        cwd: Where it runs.
    """

    def __init__(
        self, command: Sequence[str], rows: int = 24, columns: int = 80, cwd: Path | None = None
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment | {"TERM": "xterm-256color"},
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self._output = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def output(self) -> str:
        """All that was printed."""
        return self._output.decode(errors="replace")

    @property
    def text(self) -> str:
        """All that was printed, without colors and movements."""
        return _CODES.sub("", self.output).replace("\r", "")

    @property
    def tallest(self) -> int:
        """The most lines that were drawn over."""
        heights = [found[0].count("A") for found in _MOVES_UP.finditer(self.output)]
        return max(heights, default=0)

    def read_until(self, text: str, times: int = 1, seconds: float = 60.0) -> None:
        """Read until a text was printed so many times."""
        deadline = time.monotonic() + seconds
        while self.text.count(text) < times:
            assert time.monotonic() < deadline, f"waited for {text!r}, found {self.text[-2000:]!r}"
            assert self._read(), f"ended without {text!r}: {self.text[-2000:]!r}"

    def type(self, text: str) -> None:
        """Type; ``\\x03`` is Ctrl-C."""
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(timeout=60)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 1.0)[0]:
            return True
        try:
            found = os.read(self._master, 65536)
        except OSError:  # Linux tells so that nobody holds the other end any more
            return False
        self._output += found
        return bool(found)


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
