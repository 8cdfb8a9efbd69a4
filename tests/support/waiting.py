"""Waiting for something that a real Slurm does in its own time."""

import time
from collections.abc import Callable


def wait(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Wait until a condition holds, and fail with what was waited for if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)
