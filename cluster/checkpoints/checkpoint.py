"""Checkpoints: the durable state of a member, named by its own digest."""

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from cluster.records.files import fsync_directory, replacing, unfenced

_NAME = re.compile(r"(?P<step>\d{12})-(?P<digest>[0-9a-f]{32})\.pt")


class CheckpointError(Exception):
    """A checkpoint could not be written, or none of those present can be read."""


@dataclass(frozen=True)
class Checkpoint:
    """A state that was read back whole.

    Attributes:
        step: The number of steps done when it was taken.
        state: What was saved.
        path: The file it came from.
    """

    step: int
    state: dict[str, Any]
    path: Path


class CheckpointStore:
    """The checkpoints of one member, ``<step>-<sha256>.pt`` in a directory.

    A file gets its name only after its bytes are on disk, and the name carries their digest, so
    a torn or altered file shows itself and the one before it is used. States hold tensors,
    numbers, strings and containers of them; loading executes no code.

    Args:
        directory: Where they lie; made on the first save.
        keep: How many to keep, at least two: the last good one survives a bad disk block.
        keep_bytes: How many bytes they may take together; two are kept whatever they take.
        fence: Called before anything is changed; it raises where another attempt writes here.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 2,
        keep_bytes: int | None = None,
        fence: Callable[[], None] = unfenced,
    ) -> None:
        if keep < 2:
            raise ValueError(f"keep: expected at least 2 checkpoints, found {keep}")
        if keep_bytes is not None and keep_bytes < 0:
            raise ValueError(f"keep_bytes: expected a number of bytes >= 0, found {keep_bytes}")
        self.directory = directory
        self.keep = keep
        self.keep_bytes = keep_bytes
        self.fence = fence

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a state durably and let go of the oldest.

        Raises:
            CheckpointError: The disk refused it, or the state holds what could not be loaded;
                what was there before is untouched.
        """
        content = _serialized(step, dict(state))
        self.fence()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self._write(step, content)
        except OSError as error:
            self.fence()  # whoever writes here now may have cleared our file away
            raise CheckpointError(
                f"could not save step {step} in {self.directory}: {error.strerror or error}; "
                "the checkpoints that were there are untouched. "
                "Free some space or mend the permissions, then run 'yaoki retry'."
            ) from error
        self._rotate(path)
        return path

    def load(self) -> Checkpoint | None:
        """Read the newest whole checkpoint, or None where there is none at all.

        A torn one is warned of and passed over.

        Raises:
            CheckpointError: There are checkpoints, and none is whole.
        """
        candidates = self._files()
        for path in candidates:
            content = _content(path)
            match = _NAME.fullmatch(path.name)
            if (
                content
                and match
                and hashlib.sha256(content).hexdigest().startswith(match["digest"])
            ):
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                return Checkpoint(int(match["step"]), state, path)
            warnings.warn(
                f"checkpoint {path} does not match its digest (torn or altered); "
                "falling back to the one before it",
                stacklevel=2,
            )
        if candidates:
            raise CheckpointError(
                f"{self.directory}: expected a whole checkpoint, found {len(candidates)} and none "
                "matches its digest. Move the directory away to start the member afresh."
            )
        return None

    def _write(self, step: int, content: memoryview) -> Path:
        digest = hashlib.sha256(content).hexdigest()[:32]
        path = self.directory / f"{step:012d}-{digest}.pt"
        with replacing(path, self.fence) as file:
            file.write(content)
        return path

    def _rotate(self, newest: Path) -> None:
        # Files of the same step and of later ones are older (torn, or of an attempt that was
        # overtaken): the one just written must be the one that load() finds first, so those go
        # whatever `keep` says.
        self.fence()
        step = newest.name.split("-")[0]
        others = [path for path in self._files() if path != newest]
        stale = [path for path in others if path.name >= f"{step}-"]
        older = [path for path in others if path not in stale]
        stale += older[self._places(newest, older) :]
        for path in stale:
            path.unlink(missing_ok=True)
        for leftover in self.directory.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        fsync_directory(self.directory)

    def _places(self, newest: Path, older: list[Path]) -> int:
        """How many of the older ones stay."""
        places = self.keep - 1
        if self.keep_bytes is not None:
            totals = accumulate((_size(path) for path in older), initial=_size(newest))
            fitting = sum(total <= self.keep_bytes for total in totals) - 1
            places = min(places, max(1, fitting))
        return places

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("[0-9]*.pt"), reverse=True)


def _serialized(step: int, state: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    try:
        # On "meta" no tensor is copied: this reads the names in the pickle, not the data.
        torch.load(buffer, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"could not save step {step}: a state may hold tensors, numbers, strings and "
            "containers of them, and this one holds something else. Convert it in state_dict() "
            f"(NumPy's with .item() or torch.from_numpy). Found: {_culprit(error)}"
        ) from error
    return buffer.getbuffer()


def _culprit(error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else str(error).splitlines()[0]


def _content(path: Path) -> bytes:
    """The bytes of a file; none where the disk does not give them."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _size(path: Path) -> int:
    """The bytes that a file takes; none where it has gone or points to nothing."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
