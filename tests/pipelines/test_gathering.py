import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipelines.ensemble import (
    ArraySpec,
    EnsembleError,
    collect,
    create_ensemble,
    gather,
    read_commit,
    verify,
    write_member,
)

SPECS = (ArraySpec("u", (4, 8), ("time", "x")), ArraySpec("loss", (), (), "float64"))
ATTRIBUTES = {"config_digest": "c0ffee"}
MEMBERS = 3


def values(member: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(member)
    return {s.name: np.asarray(rng.standard_normal(s.shape), s.dtype) for s in SPECS}


def write(path: Path, member: int, seed: int, fence: int = 1) -> None:
    write_member(path, member, values(seed), ATTRIBUTES | {"seed": seed}, fence)


def plan(run: Path, members: int = MEMBERS) -> Path:
    create_ensemble(run / "ensemble.zarr", members, SPECS, ATTRIBUTES)
    return run / "ensemble.zarr"


def external(place: Path, members: int = MEMBERS, fence: int = 1) -> dict[int, Path]:
    stores = {member: plan(place / str(member), 1) for member in range(members)}
    for member, store in stores.items():
        write(store, 0, seed=member, fence=fence)
    return stores


def tree(run: Path) -> dict[str, bytes]:
    return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}


def directly(run: Path, members: int = MEMBERS, fence: int = 1) -> Path:
    path = plan(run, members)
    for member in range(members):
        write(path, member, seed=member, fence=fence)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another device."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        assert Path(place).stat().st_dev != tmp_path.stat().st_dev
        yield Path(place)


def test_gathered_members_are_links_and_equal_members_written_in_place(tmp_path: Path) -> None:
    path, stores = plan(tmp_path / "run"), external(tmp_path / "out")
    commits = gather(path, stores)
    assert (path / "u/c.2.0.0").samefile(stores[2] / "u/c.0.0.0")
    directly(tmp_path / "direct")
    assert tree(tmp_path / "run") == tree(tmp_path / "direct")
    assert commits == {member: read_commit(path, member) for member in range(MEMBERS)}
    collect(path)
    np.testing.assert_array_equal(zarr.open_array(path / "u", mode="r")[2], values(2)["u"])


def test_across_devices_members_are_copied(tmp_path: Path, elsewhere: Path) -> None:
    path, stores = plan(tmp_path / "run"), external(elsewhere)
    gather(path, stores)
    directly(tmp_path / "direct")
    assert tree(tmp_path / "run") == tree(tmp_path / "direct")
    copied = (path / "u/c.1.0.0").stat()
    gather(path, stores)
    assert (path / "u/c.1.0.0").stat() == copied


def test_gathering_again_or_more_changes_nothing_else(tmp_path: Path) -> None:
    path, stores = plan(tmp_path / "run"), external(tmp_path / "out")
    seen: list[tuple[int, int]] = []
    gather(path, {1: stores[1]})
    assert verify(path).of("committed") == [1]
    gather(path, stores, lambda done, of: seen.append((done, of)))
    before = tree(tmp_path / "run")
    gather(path, stores)
    assert tree(tmp_path / "run") == before
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_later_attempt_stays(tmp_path: Path) -> None:
    path = directly(tmp_path / "run", fence=2)
    before = tree(tmp_path / "run")
    with pytest.raises(EnsembleError, match="committed by attempt 2; attempt 1 came too late"):
        gather(path, external(tmp_path / "early", fence=1))
    other = external(tmp_path / "other", fence=2)
    with pytest.raises(EnsembleError, match="has committed other bytes"):
        gather(path, {0: other[1]})
    assert tree(tmp_path / "run") == before
    gather(path, {0: external(tmp_path / "late", fence=3)[1]})
    assert verify(path).complete
    np.testing.assert_array_equal(zarr.open_array(path / "u", mode="r")[0], values(1)["u"])


def test_a_store_can_be_written_anew_after_it_was_gathered(tmp_path: Path) -> None:
    path, stores = plan(tmp_path / "run"), external(tmp_path / "out")
    gather(path, stores)
    write(stores[0], 0, seed=99, fence=2)
    assert verify(path).complete


def _foreign(store: Path) -> None:
    (store.parent / "commits/layout.json").unlink()
    (store / "zarr.json").unlink()
    zarr.create_group(store, zarr_format=3)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _replanned(store: Path, members: int, specs: tuple[ArraySpec, ...], digest: str) -> None:
    store.parent.rename(store.parent.with_name("before"))
    create_ensemble(store, members, specs, {"config_digest": digest})


_WIDE = (dataclasses.replace(SPECS[0], shape=(4, 16)), SPECS[1])
_BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign": (_foreign, "not a yaoki ensemble"),
    "absent": (lambda s: s.parent.rename(s.parent.with_name("away")), "no Zarr group"),
    "not committed": (lambda s: (s.parent / "commits/0000.json").unlink(), "not committed"),
    "torn marker": (lambda s: _flip(s.parent / "commits/0000.json"), "torn or changed"),
    "truncated": (lambda s: os.truncate(s / "u/c.0.0.0", 5), "5 bytes, its marker says"),
    "deleted": (lambda s: (s / "u/c.0.0.0").unlink(), "looking at .*u/c.0.0.0: No such file"),
    "two members": (lambda s: _replanned(s, 2, SPECS, "c0ffee"), "expected one member"),
    "another shape": (lambda s: _replanned(s, 1, _WIDE, "c0ffee"), r"float32 \(4, 16\)"),
    "another job": (lambda s: _replanned(s, 1, SPECS, "beef"), "of configuration 'beef'"),
}


@pytest.mark.parametrize("how", _BAD)
def test_one_bad_store_is_told_and_nothing_is_gathered(tmp_path: Path, how: str) -> None:
    path, stores = plan(tmp_path / "run"), external(tmp_path / "out")
    before = tree(tmp_path / "run")
    spoil, message = _BAD[how]
    spoil(stores[1])
    with pytest.raises(EnsembleError, match=message):
        gather(path, stores)
    assert tree(tmp_path / "run") == before


def test_a_store_for_two_members_and_a_member_too_many_are_refused(tmp_path: Path) -> None:
    path, stores = plan(tmp_path / "run"), external(tmp_path / "out")
    with pytest.raises(EnsembleError, match="for member 0 and for member 2"):
        gather(path, stores | {2: stores[0]})
    with pytest.raises(EnsembleError, match="member 3 of an ensemble of 3"):
        gather(path, {3: stores[0]})
    assert verify(path).of("missing") == [0, 1, 2]


def test_bytes_that_changed_are_found_on_the_way_to_another_device(
    tmp_path: Path, elsewhere: Path
) -> None:
    path, stores = plan(tmp_path / "run"), external(elsewhere)
    _flip(stores[2] / "u/c.0.0.0")
    with pytest.raises(EnsembleError, match="digest mismatch"):
        gather(path, stores)
    assert verify(path).of("missing") == [0, 1, 2]
    write(stores[2], 0, seed=2)
    gather(path, stores)
    assert verify(path).complete


def test_a_kill_leaves_members_gathered_or_not(tmp_path: Path) -> None:
    members = 40
    stores = external(tmp_path / "out", members)
    code = (
        "import sys; from pathlib import Path; from pipelines.ensemble import gather\n"
        "path, out = map(Path, sys.argv[1:]); print(flush=True)\n"
        f"gather(path, {{m: out / str(m) / 'ensemble.zarr' for m in range({members})}})"
    )
    directly(tmp_path / "direct", members)
    rng = np.random.default_rng(0)
    for trial in range(4):
        path = plan(tmp_path / f"run {trial}", members)
        command = [sys.executable, "-c", code, str(path), str(tmp_path / "out")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.06))
            process.send_signal(signal.SIGKILL)
        assert verify(path).of("damaged") == []
        gather(path, stores)
        assert verify(path).complete
        left = tree(path.parent).items()
        whole = {name: content for name, content in left if not name.endswith(".tmp")}
        assert whole == tree(tmp_path / "direct")
