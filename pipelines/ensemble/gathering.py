"""Members that were written elsewhere, on a node's own disk say, become members of one ensemble."""

import errno
import hashlib
import os
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cluster.records.files import fsync_directory, replacing
from pipelines.ensemble.documents import EnsembleError, Stored, reported
from pipelines.ensemble.layout import Layout, read_layout
from pipelines.ensemble.members import (
    Commit,
    check_index,
    load_commit,
    marker,
    standing_commit,
    taking_turns,
)
from pipelines.ensemble.verifying import Progress, misfits

# Another device, another owner, too many links, or a file system without links.
_COPIED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_WRITERS = 16
_PIECE = 2**20


def gather(
    path: Path, stores: Mapping[int, Path], progress: Progress | None = None
) -> dict[int, Commit]:
    """Make members of ensembles of one member each, which other places hold.

    Shards are linked, not copied, where both ends are on one file system; ``yaoki`` never changes
    a file in place, so a link is as good as a copy. Elsewhere they are copied, digested on the
    way, and made durable. Killed at any moment, it leaves each member gathered or not, and doing
    it again ends the same.

    Args:
        path: The ensemble.
        stores: A member's index to the path of the store that becomes this member: written by
            :func:`write_member` as member 0 of 1, with the same arrays and configuration.
        progress: Called with the number of members placed and of all.

    Returns:
        The commits that now stand. Fence and provenance are those that the store's marker has.

    Raises:
        EnsembleError: A store is foreign, not committed, damaged, of another layout or
            configuration, or named twice; a member has a later commit; or a file cannot be
            written. No member is committed then.
    """
    layout = read_layout(path)
    for member in stores:
        check_index(layout, member)
    read: dict[bytes, Layout] = {}
    offered = {m: _offered(layout, m, _layout_of(store, read)) for m, store in stores.items()}
    _check_distinct(stores)
    with reported(f"gathering {len(stores)} members into {path}"), taking_turns(layout, stores):
        standing = {m: standing_commit(layout, commit) for m, commit in offered.items()}
        for done, (member, store) in enumerate(stores.items(), start=1):
            for spec in layout.arrays.values():
                name = spec.shard(member)
                _place(store / spec.shard(0), path / name, offered[member].shards[name])
            if progress is not None:
                progress(done, len(stores))
        for array in layout.arrays:
            fsync_directory(path / array)
        missing = {m: commit for m, commit in offered.items() if standing[m] is None}
        _write_all({layout.commit(m): marker(commit) for m, commit in missing.items()})
    return {m: standing[m] or commit for m, commit in offered.items()}


def _check_distinct(stores: Mapping[int, Path]) -> None:
    members: dict[tuple[int, int], int] = {}
    for member, store in stores.items():
        found = store.stat()
        first = members.setdefault((found.st_dev, found.st_ino), member)
        if first != member:
            raise EnsembleError(f"{store}: named for member {first} and for member {member}")


def _layout_of(store: Path, read: dict[bytes, Layout]) -> Layout:
    """The layout of a store; those of one array job have equal records, and one is parsed."""
    record = Layout(store, 0, "", {}).record
    if not record.exists():
        return read_layout(store)
    with reported(f"reading {record}"):
        content = record.read_bytes()
    if content not in read:
        read[content] = read_layout(store)
    return replace(read[content], path=store)


def _offered(layout: Layout, member: int, found: Layout) -> Commit:
    """The commit that a store would give a member."""
    store = found.path
    if found.members != 1 or found.arrays != layout.arrays:
        raise EnsembleError(
            f"{store}: expected one member with the arrays of {layout.path}, "
            f"found {found.members} members of {_described(found)}, not {_described(layout)}"
        )
    if found.config_digest != layout.config_digest:
        raise EnsembleError(
            f"{store}: of configuration {found.config_digest!r}, "
            f"{layout.path} is of {layout.config_digest!r}"
        )
    commit = load_commit(found.commit(0))
    if commit is None:
        raise EnsembleError(f"{store}: not committed: {found.commit(0)} is missing; finish it")
    for reason in misfits(found, 0, commit):
        raise EnsembleError(f"{found.commit(0)}: {reason}")
    for name, stored in commit.shards.items():
        _check_size(store / name, stored)
    shards = {spec.shard(member): commit.shards[spec.shard(0)] for spec in layout.arrays.values()}
    return replace(commit, member=member, shards=shards)


def _described(layout: Layout) -> str:
    specs = layout.arrays.values()
    return ", ".join(f"{s.name} {s.dtype} {s.shape} in {s.inner} {s.codec}" for s in specs)


def _check_size(shard: Path, stored: Stored) -> None:
    with reported(f"looking at {shard}"):
        size = shard.stat().st_size
    if size != stored.size:
        raise EnsembleError(f"{shard}: {size} bytes, its marker says {stored.size}; write it anew")


def _place(source: Path, target: Path, stored: Stored) -> None:
    try:
        _link(source, target)
    except OSError as error:
        if error.errno not in _COPIED:
            raise
        if stored.damage(target):
            _copy(source, target, stored)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileExistsError:
        # A rename between two names of one file does nothing and leaves both.
        if not target.samefile(source):
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
            temporary.hardlink_to(source)
            temporary.replace(target)


def _copy(source: Path, target: Path, stored: Stored) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as file, replacing(target) as copy:
        while piece := file.read(_PIECE):
            digest.update(piece)
            copy.write(piece)
        if digest.hexdigest() != stored.sha256:
            raise EnsembleError(f"{source}: digest mismatch: the bytes have changed; write it anew")


def _write_all(files: Mapping[Path, bytes]) -> None:
    """Write files as :func:`cluster.records.files.write_atomic` does, all at once.

    The journal of a file system takes many files in one commit, so threads that wait together
    wait less; and a directory that is made durable once holds all names.
    """
    token = uuid.uuid4().hex
    temporary = {path: path.with_name(f".{path.name}.{token}.tmp") for path in files}
    try:
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(_write_durably, temporary.values(), files.values()))
        for path, written in temporary.items():
            written.replace(path)
    finally:
        for leftover in temporary.values():
            leftover.unlink(missing_ok=True)
    for directory in {path.parent for path in files}:
        fsync_directory(directory)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
