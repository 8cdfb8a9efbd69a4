"""A Weights & Biases server: which steps it has of a run, and sending more with W&B's own tools."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

#: How long one ``wandb sync``, or all questions about one run, may take, seconds.
_PATIENCE = 600.0
#: How long a question may take, seconds.
_ANSWER_TIMEOUT = 20
_IMPATIENT = {f"WANDB__{kind}_RETRY_MAX": "2" for kind in ("GRAPHQL", "FILE_STREAM")}


class SyncError(Exception):
    """W&B is not installed, not reached, or did not take what it was sent."""


def shown_steps(path: str) -> set[int] | None:
    """The steps in the history of a run; None where the server has no such run.

    Args:
        path: ``project/identifier``.

    Raises:
        SyncError: W&B is not installed, nobody is logged in, or the server does not answer.
    """
    _lose_patience()
    try:
        import wandb
        from wandb.apis.public.runs import RunNotFoundError
    except ImportError as error:
        raise SyncError(
            f"expected the package wandb, found none ({error}); 'pip install yaoki[tracking]' "
            "installs it. Nothing is lost: metrics.jsonl has every row."
        ) from error
    try:
        return _within(_PATIENCE, lambda: _history(wandb.Api(timeout=_ANSWER_TIMEOUT), path))
    except Exception as error:  # of many kinds, some of them private
        if isinstance(getattr(error, "exc", error), RunNotFoundError):
            return None
        raise SyncError(
            f"expected Weights & Biases to tell what it has of {path}, found: "
            f"{error}. Log in with 'wandb login', and look at WANDB_BASE_URL and the network. "
            "Nothing is lost: the same command goes on."
        ) from error


def _history(api: Any, path: str) -> set[int]:
    run = api.run(path)
    if run.lastHistoryStep < 0:
        return set()
    return {int(row["_step"]) for row in run.scan_history(keys=["_step"], use_cache=False)}


def _within(seconds: float, call: Callable[[], set[int]]) -> set[int]:
    """What a call returns or raises, unless it takes too long: some of W&B's retries never end."""
    answer: Future[set[int]] = Future()

    def answering() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    # A daemon, which does not keep the command from ending.
    threading.Thread(target=answering, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None


def push(segments: Mapping[str, Path], directory: Path) -> dict[str, str]:
    """Send offline directories with ``wandb sync``.

    Args:
        segments: Directories ``offline-run-*``, whole ones, by ``project/identifier``.
        directory: Where it may leave its own files.

    Returns:
        Of each that has not arrived whole, what was said of it.
    """
    said = _wandb_sync(list(segments.values()), directory)
    refused = {}
    for name, segment in segments.items():
        # It ends with 0 whatever happened, and marks as synced even what the server refused.
        errors = [line for line in said.splitlines() if "ERROR" in line and f"[{name}]" in line]
        if errors or not any(segment.glob("*.wandb.synced")):
            refused[name] = "\n".join(errors) or said
    return refused


def _wandb_sync(segments: Sequence[Path], directory: Path) -> str:
    """Run it, and return what it printed."""
    _lose_patience()
    command = [sys.executable, "-P", "-m", "wandb", "sync", *map(str, segments)]
    told = {"WANDB_MODE": "online", "WANDB_DIR": str(directory)}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"'wandb sync' had not ended after {_PATIENCE:.0f} s"
    return done.stdout.strip()


def _lose_patience() -> None:
    """Unless the user told W&B otherwise, it asks a server that is gone again for hours."""
    for name, value in _IMPATIENT.items():
        os.environ.setdefault(name, value)
