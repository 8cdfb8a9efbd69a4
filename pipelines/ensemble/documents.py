"""Sealed JSON documents and file digests: what every proof about an ensemble is made of."""

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SEAL = b' "seal": "'
_HINTS = {
    errno.ENOSPC: "free some space, then run it again",
    errno.EDQUOT: "the quota is used up: free some space, then run it again",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), then run it again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "ask the owner of the directory for permission to write",
}


class EnsembleError(RuntimeError):
    """An ensemble that cannot be written, read or sealed; the message says why and what to do."""


class FormatError(EnsembleError):
    """What another version wrote: whole, it may be, and not ours to judge or to replace."""

    def __init__(self, path: Path, found: object, known: int) -> None:
        super().__init__(
            f"{path}: expected format {known}, found {found}: another version of yaoki wrote it; "
            "use that one, or a newer"
        )


@dataclass(frozen=True)
class Stored:
    """What a file must hold: its size in bytes and the SHA-256 of them, in hexadecimal."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> "Stored":
        """Describe bytes in memory."""
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Stored":
        """Read the description out of a document."""
        return cls(int(found["size"]), str(found["sha256"]))

    def damage(self, path: Path) -> str | None:
        """Say what is wrong with the file at ``path``, or None; its bytes are streamed."""
        try:
            found = path.stat().st_size
            if found < self.size:
                return f"truncated: {found} of {self.size} bytes"
            if found > self.size:
                return f"too long: {found} bytes instead of {self.size}"
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return "deleted"
        except OSError as error:
            return f"unreadable: {error.strerror}"
        return None if digest == self.sha256 else "digest mismatch: the bytes have changed"


def seal(document: dict[str, Any]) -> bytes:
    """Encode a document as JSON whose last entry is the SHA-256 of all bytes before it.

    The seal covers bytes, not values, so a reader in any language checks it without having to
    agree on a canonical form of JSON.
    """
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    body = text.removesuffix("\n}").encode() + b",\n"
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def unseal(path: Path) -> dict[str, Any]:
    """Read a sealed document.

    Raises:
        FileNotFoundError: There is none.
        EnsembleError: It cannot be read, or its bytes are not those that were sealed.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    with reported(f"reading {path}"):
        content = path.read_bytes()
    body, _, rest = content.rpartition(_SEAL)
    if not body or rest != hashlib.sha256(body).hexdigest().encode() + b'"\n}\n':
        raise EnsembleError(f"{path}: torn or changed: its seal does not fit its bytes")
    document: dict[str, Any] = json.loads(content)
    del document["seal"]
    return document


@contextmanager
def reported(action: str) -> Iterator[None]:
    """Turn the system's errors into one EnsembleError with a hint."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "look at the file system, then run it again")
        raise EnsembleError(
            f"{action}: {error.strerror or error}: {hint}; no file was left half written"
        ) from error
