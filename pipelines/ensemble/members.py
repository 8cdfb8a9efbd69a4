"""A member's part: write its shards whole, then the marker that alone proves it."""

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cluster.records.files import replacing, write_atomic
from pipelines.ensemble.documents import (
    EnsembleError,
    FormatError,
    Stored,
    reported,
    seal,
    unseal,
)
from pipelines.ensemble.layout import FORMAT, ArraySpec, Layout, read_layout
from pipelines.ensemble.shards import Shard

_PATIENCE = 300.0
_threads = threading.Lock()


@dataclass(frozen=True)
class Commit:
    """The marker of a member whose shards are whole.

    Attributes:
        member: Index along the member axis.
        fence: Number of the attempt that wrote it; a later attempt has a higher one.
        config_digest: Configuration that it was computed with.
        shards: Path in the store to what the file must hold.
        provenance: Seed, git revision, Slurm ids, versions: what the writer told about itself.
    """

    member: int
    fence: int
    config_digest: str
    shards: Mapping[str, Stored]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def read_commit(path: Path, member: int) -> Commit | None:
    """Read a member's marker; None where it has not committed. Shards are not looked at.

    Raises:
        EnsembleError: The marker is torn or changed.
    """
    layout = read_layout(path)
    check_index(layout, member)
    return load_commit(layout.commit(member))


def write_member(
    path: Path,
    member: int,
    arrays: Mapping[str, NDArray[Any]],
    provenance: Mapping[str, Any],
    fence: int,
) -> Commit:
    """Write all that a member made and commit it, durably, in that order.

    Killed at any moment, it leaves a member that is committed and whole or one that is not
    committed; writing again then gives the same bytes as if nothing had happened. Attempts that
    write the same member at once take turns, and of two commits the higher fence stays.

    Args:
        path: The ensemble.
        member: Index along the member axis.
        arrays: All arrays of the layout, each of one member's shape and the layout's dtype.
        provenance: JSON values; ``config_digest`` must be the ensemble's.
        fence: Number of this attempt.

    Returns:
        The commit that now stands, which is the earlier one where it held the same bytes.

    Raises:
        EnsembleError: The arrays or the configuration do not fit, a later attempt has committed,
            this attempt has committed other bytes, or the bytes cannot be written.
    """
    layout = read_layout(path)
    check_index(layout, member)
    _check_arrays(layout, member, arrays)
    _check_configuration(layout, member, provenance)
    content = _encode(layout, member, arrays)
    shards = {name: shard.stored for name, shard in content.items()}
    commit = Commit(member, fence, layout.config_digest, shards, dict(provenance))
    with reported(f"writing member {member} of {path}"), taking_turns(layout, [member]):
        standing = standing_commit(layout, commit)

        def check() -> None:  # where the file system has no locks, this is what there is instead
            standing_commit(layout, commit)

        for name, shard in content.items():
            if shards[name].damage(path / name):
                with replacing(path / name, check) as file:
                    shard.write(file)
        if standing is not None:
            return standing
        write_atomic(layout.commit(member), marker(commit), check)
    return commit


def load_commit(path: Path) -> Commit | None:
    """Read a marker file; None where there is none.

    Raises:
        FormatError: Another version wrote it.
        EnsembleError: It is torn or changed.
    """
    try:
        found = unseal(path)
        if found["format"] != FORMAT:
            raise FormatError(path, found["format"], FORMAT)
        shards = {name: Stored.from_json(stored) for name, stored in found["shards"].items()}
        return Commit(
            found["member"], found["fence"], found["config_digest"], shards, found["provenance"]
        )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EnsembleError(f"{path}: not a commit marker: {error!r}") from error


def marker(commit: Commit) -> bytes:
    """Encode the content of a marker file."""
    shards = {name: vars(stored) for name, stored in commit.shards.items()}
    return seal({"format": FORMAT, **vars(commit), "shards": shards})


def standing_commit(layout: Layout, commit: Commit) -> Commit | None:
    """Return the commit that makes this one needless, refuse where it forbids it."""
    try:
        found = load_commit(layout.commit(commit.member))
    except FormatError:
        raise
    except EnsembleError:
        # A marker that proves nothing cannot forbid anything: this attempt repairs it.
        return None
    if found is None or found.config_digest != commit.config_digest:
        return None
    if found.fence > commit.fence:
        raise EnsembleError(
            f"{layout.path}: member {commit.member} was committed by attempt {found.fence}; "
            f"attempt {commit.fence} came too late and wrote nothing"
        )
    if found.fence < commit.fence:
        return None
    if found.shards != commit.shards:
        raise EnsembleError(
            f"{layout.path}: attempt {commit.fence} of member {commit.member} has committed other "
            "bytes before; a new computation needs a higher fence"
        )
    return found


def _encode(layout: Layout, member: int, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Shard]:
    return {
        spec.shard(member): Shard.encode(spec, arrays[name]) for name, spec in layout.arrays.items()
    }


def check_index(layout: Layout, member: int) -> None:
    """Refuse a member that the ensemble has no place for."""
    if not 0 <= member < layout.members:
        raise EnsembleError(
            f"{layout.path}: member {member} of an ensemble of {layout.members} (counted from 0)"
        )


def _check_arrays(layout: Layout, member: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    if arrays.keys() != layout.arrays.keys():
        raise EnsembleError(
            f"{layout.path}: member {member} brings arrays {sorted(arrays)}, "
            f"expected {sorted(layout.arrays)}"
        )
    for name, spec in layout.arrays.items():
        found = _describe(arrays[name])
        if found != _describe_spec(spec):
            raise EnsembleError(
                f"{layout.path}: member {member}, array {name}: found {found}, "
                f"expected {_describe_spec(spec)}"
            )


def _check_configuration(layout: Layout, member: int, provenance: Mapping[str, Any]) -> None:
    found = provenance.get("config_digest")
    if found != layout.config_digest:
        raise EnsembleError(
            f"{layout.path}: member {member} was computed with configuration {found!r}, "
            f"the ensemble is of {layout.config_digest!r}; write it to its own run directory"
        )


def _describe(values: NDArray[Any]) -> str:
    return f"{values.dtype} {values.shape}"


def _describe_spec(spec: ArraySpec) -> str:
    return f"{spec.dtype} {spec.shape}"


@contextmanager
def taking_turns(layout: Layout, members: Iterable[int]) -> Iterator[None]:
    """Hold each member's byte of one lock file: a killed holder lets go, and it is one inode."""
    descriptor = os.open(layout.commits / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Record locks belong to the process, so its threads take turns by a lock of their own.
        with _threads:
            for member in sorted(members):  # in one order everywhere, so that nobody deadlocks
                _lock(descriptor, layout, member)
            yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, layout: Layout, member: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, member)
            return
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                raise EnsembleError(
                    f"{layout.path}: another attempt has been writing member {member} for "
                    f"{_PATIENCE:.0f} s; end it, then retry"
                ) from None
        time.sleep(0.05)
