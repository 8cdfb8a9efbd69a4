"""Checkpoints: the durable state of a member, named by its own digest."""

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.files import fsync_directory, replacing

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
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError(f"keep: expected at least 2 checkpoints, found {keep}")
        self.directory = directory
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a state durably and let go of the oldest.

        Raises:
            CheckpointError: The disk refused it; what was there before is untouched.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self._write(step, dict(state))
        except OSError as error:
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
            content = path.read_bytes()
            match = _NAME.fullmatch(path.name)
            if match and hashlib.sha256(content).hexdigest().startswith(match["digest"]):
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

    def _write(self, step: int, state: dict[str, Any]) -> Path:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest()[:32]
        path = self.directory / f"{step:012d}-{digest}.pt"
        with replacing(path) as file:
            file.write(content)
        return path

    def _rotate(self, newest: Path) -> None:
        # Same-step files of another digest are older (their attempt was overtaken): the one just
        # written must be the one that load() finds first, so those go whatever `keep` says.
        step = newest.name.split("-")[0]
        others = [path for path in self._files() if path != newest]
        stale = [path for path in others if path.name.startswith(f"{step}-")]
        stale += [path for path in others if path not in stale][self.keep - 1 :]
        for path in stale:
            path.unlink(missing_ok=True)
        for leftover in self.directory.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        fsync_directory(self.directory)

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("[0-9]*.pt"), reverse=True)
