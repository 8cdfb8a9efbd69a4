"""Read-only directories, full disks, wrong clocks, late writers: one clear error or none at all."""

import errno
import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import zarr
from support.disks import fill, in_memory, read_only, small_disk
from support.ensembles import ATTRIBUTES, DIGEST, MEMBERS, SPECS, plan, tree, values, write, written

from pipelines.ensemble import (
    ArraySpec,
    EnsembleError,
    collect,
    create_ensemble,
    gather,
    members,
    verify,
    write_member,
)
from pipelines.ensemble.shards import Shard


def test_a_read_only_directory_is_read_and_told_of(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = plan(run)
    write(path, 0)
    with read_only(run):
        before = tree(run)
        assert verify(path).of("committed") == [0]
        plan(run)  # there already, so nothing has to be written
        uses: dict[str, Callable[[], object]] = {
            "writing member 1 of": lambda: write(path, 1),
            "sealing": lambda: collect(path, partial=True),
        }
        for action, use in uses.items():
            told = rf"{action} {path}: Read-only file system: the file system is read-only"
            with pytest.raises(EnsembleError, match=told):
                use()
        with pytest.raises(EnsembleError, match=r"creating .*: the file system is read-only"):
            create_ensemble(run / "another" / "e.zarr", MEMBERS, SPECS, ATTRIBUTES)
        assert tree(run) == before
    collect(path, partial=True)


def test_members_are_gathered_from_a_read_only_directory(tmp_path: Path) -> None:
    store, path = plan(tmp_path / "archive", members=1), plan(tmp_path / "run")
    write(store, 0)
    with read_only(tmp_path / "archive"):
        gather(path, {2: store})
    assert verify(path).of("committed") == [2]


LARGE = (ArraySpec("u", (256, 256), ("y", "x")),)


def put(path: Path, member: int) -> None:
    write_member(path, member, values(member, LARGE), {"config_digest": DIGEST}, 1)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 768) as disk:
        path = plan(disk, LARGE)
        put(path, 0)
        put(path, 1)
        stores = {2: plan(tmp_path / "out", LARGE, 1)}
        put(stores[2], 0)
        before = tree(disk)
        full = r"{} .*{}.*No space left on device: free some space, then run it again"
        with pytest.raises(EnsembleError, match=full.format("writing member 2 of", path)):
            put(path, 2)
        with pytest.raises(EnsembleError, match=full.format("gathering 1 members into", path)):
            gather(path, stores)
        assert tree(disk) == before
        assert verify(path).of("committed") == [0, 1]
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        gather(path, stores)
        put(path, 3)
        collect(path)
        assert verify(path).ok


@pytest.mark.parametrize("what", ["planning", "sealing"])
def test_a_full_disk_leaves_no_store_and_no_seal_by_halves(tmp_path: Path, what: str) -> None:
    with small_disk(tmp_path / "disk", 768) as disk:
        if what == "sealing":
            written(disk)
        before = tree(disk)
        ballast = fill(disk)
        with pytest.raises(EnsembleError, match=r"(creating|sealing) .*No space left on device"):
            plan(disk) if what == "planning" else collect(disk / "ensemble.zarr")
        ballast.unlink()
        assert tree(disk) == before
        collect(written(disk))
        assert verify(disk / "ensemble.zarr").ok


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Refuse to let a file grow beyond a size, as ``ulimit -f`` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def used_up_quota(size: int) -> Iterator[None]:
    """Refuse the bytes of shards beyond a size, as a quota does: it takes one of its own kind."""

    def write_some(shard: Shard, file: BinaryIO) -> None:
        file.write(shard.parts[0][:size])
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shard, "write", write_some)
        yield


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (largest_file, r"File too large: raise the limit of a file's size"),
        (used_up_quota, r"Disk quota exceeded: the quota is used up: free some space"),
    ],
)
def test_a_limit_reached_amid_a_shard_leaves_nothing_of_it(
    tmp_path: Path, limit: Callable[[int], Any], told: str
) -> None:
    path = plan(tmp_path, LARGE)
    put(path, 0)
    before = tree(tmp_path) | {"commits/.lock": b""}
    with limit(100_000), pytest.raises(EnsembleError, match=rf"writing member 1 of {path}: {told}"):
        put(path, 1)
    assert tree(tmp_path) == before
    put(path, 1)
    assert verify(path).of("committed") == [0, 1]


def test_clocks_that_run_backwards_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(written(tmp_path / "right"))
    path = plan(tmp_path / "wrong")
    now = time.time()
    for attempt in range(1, 4):  # each on a node that is a year behind the one before
        monkeypatch.setattr(time, "time", lambda moment=now - attempt * 3e7: moment)
        for member in range(MEMBERS):
            write_member(
                path, member, values(member), {"config_digest": DIGEST, "seed": 7}, attempt
            )
        for file in (tmp_path / "wrong").rglob("*"):
            os.utime(file, (now - attempt * 3e7, now - attempt * 3e7))
    with pytest.raises(EnsembleError, match="attempt 2 came too late"):
        write(path, 0, fence=2)
    collect(path)
    assert verify(path).ok
    right, wrong = tree(tmp_path / "right"), tree(tmp_path / "wrong")
    assert right.keys() == wrong.keys()
    different = {name for name in right if right[name] != wrong[name]}
    assert different == {f"commits/{member:04d}.json" for member in range(MEMBERS)}
    assert json.loads(wrong["commits/0000.json"])["fence"] == 3


def test_without_locks_the_fence_alone_keeps_a_late_writer_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without locks, or where the node of the first one was cut off."""
    path = plan(tmp_path)
    monkeypatch.setattr(members, "taking_turns", lambda _layout, _members: nullcontext())
    whole = Shard.write

    def overtaken(shard: Shard, file: BinaryIO) -> None:
        monkeypatch.setattr(Shard, "write", whole)
        whole(shard, file)
        write_member(path, 1, values(42), {"config_digest": DIGEST}, 2)

    monkeypatch.setattr(Shard, "write", overtaken)
    with pytest.raises(EnsembleError, match="by attempt 2; attempt 1 came too late"):
        write(path, 1, fence=1)
    assert verify(path).of("committed") == [1]
    np.testing.assert_array_equal(zarr.open_array(path / "u", mode="r")[1], values(42)["u"])
    assert not list(path.rglob(".*.tmp"))


def test_paths_may_have_spaces_and_other_scripts() -> None:
    with in_memory() as place:
        path = plan(place / "läufe 七転 八起" / "'a' \"b\" $HOME %j *")
        write(path, 0)
        store = plan(place / "anders wo", members=1)
        write(store, 0)
        gather(path, {1: store})
        assert collect(path, partial=True)["valid"] == [0, 1]
        report = verify(path)
        assert report.ok
        assert report.lines()[0].startswith(f"{path}: of 4 members 2 committed")
