import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ensemble import (
    ArraySpec,
    Commit,
    Coordinate,
    EnsembleError,
    collect,
    create_ensemble,
    verify,
    write_member,
)

MEMBERS = 4
DIGEST = "c0ffee"
ATTRIBUTES = {"title": "a test", "config_digest": DIGEST}
SPECS = (
    ArraySpec(
        "u", (4, 2, 8, 8), ("time", "channel", "y", "x"), units="m s-1", long_name="velocity"
    ),
    ArraySpec("loss", (), (), "float64", long_name="final loss"),
)
TIME = Coordinate("time", 0.2 * np.arange(4), "s", "time")
ROOT = Path(__file__).parents[2]


def plan(run: Path, specs: tuple[ArraySpec, ...] = SPECS, members: int = MEMBERS) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    create_ensemble(run / "ensemble.zarr", members, specs, ATTRIBUTES, [TIME])
    return run / "ensemble.zarr"


def values(member: int, specs: tuple[ArraySpec, ...] = SPECS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(member)
    return {s.name: np.asarray(rng.standard_normal(s.shape), s.dtype) for s in specs}


def write(path: Path, member: int, fence: int = 1) -> Commit:
    return write_member(path, member, values(member), {"config_digest": DIGEST, "seed": 7}, fence)


def written(run: Path) -> Path:
    path = plan(run)
    for member in range(MEMBERS):
        write(path, member)
    return path


def tree(run: Path) -> dict[str, bytes]:
    return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1 << (len(content) % 8)
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("sealed", [False, True])
def test_no_damage_to_any_file_is_silent(tmp_path: Path, how: str, sealed: bool) -> None:
    path = written(tmp_path / "run")
    if sealed:
        collect(path)
    assert verify(path).ok
    proved = set(tree(tmp_path / "run")) - {"commits/.lock"}
    for name in sorted(proved):
        file = tmp_path / "run" / name
        kept = file.read_bytes()
        damage(file, how)
        report = verify(path)
        assert not report.ok
        assert name in "\n".join(report.lines())
        if name.startswith(("ensemble.zarr/u/c.", "ensemble.zarr/loss/c.")):
            member = int(name.split(".")[2])
            (found,) = [m for m in report.members if m.state == "damaged"]
            assert found.member == member
            assert [problem.file for problem in found.problems] == [name]
        file.write_bytes(kept)
    assert verify(path).ok


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), which=st.integers(0, 10**6))
def test_any_one_bit_anywhere_is_seen(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int, which: int
) -> None:
    run = tmp_path_factory.getbasetemp() / "bits"
    path = run / "ensemble.zarr"
    if not run.exists():
        collect(written(run))
    names = sorted(set(tree(run)) - {"commits/.lock"})
    file = run / names[which % len(names)]
    kept = file.read_bytes()
    flipped = bytearray(kept)
    flipped[int(where * len(kept))] ^= 1 << bit
    file.write_bytes(flipped)
    try:
        assert not verify(path).ok
    finally:
        file.write_bytes(kept)
    assert verify(path).ok


def test_the_wrong_configuration_and_a_borrowed_marker_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a")
    other = tmp_path / "b" / "ensemble.zarr"
    other.parent.mkdir()
    create_ensemble(other, MEMBERS, SPECS, ATTRIBUTES | {"config_digest": "beef"})
    write_member(other, 1, values(1), {"config_digest": "beef"}, 1)
    shutil.copy(tmp_path / "b/commits/0001.json", tmp_path / "a/commits/0001.json")
    shutil.copy(tmp_path / "a/commits/0003.json", tmp_path / "a/commits/0002.json")
    report = verify(path)
    assert report.of("damaged") == [1, 2]
    text = "\n".join(report.lines())
    assert "configuration 'beef', the ensemble is of 'c0ffee'" in text
    assert "it is the marker of member 3" in text


def test_collect_refuses_holes(tmp_path: Path) -> None:
    path = plan(tmp_path)
    for member in (0, 2):
        write(path, member)
    damage(path / "u/c.2.0.0.0.0", "truncate")
    before = tree(tmp_path)
    with pytest.raises(EnsembleError, match="3 of 4 members are not whole") as raised:
        collect(path)
    assert "member 1 missing: commits/0001.json" in str(raised.value)
    assert "member 2 damaged: ensemble.zarr/u/c.2.0.0.0.0: truncated" in str(raised.value)
    assert tree(tmp_path) == before


def test_partial_collection_is_nan_and_masked_and_can_be_completed(tmp_path: Path) -> None:
    path = written(tmp_path / "run")
    collect(path)
    whole = tree(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    plan(tmp_path / "run")
    for member in (0, 2, 3):
        write(path, member)
    damage(path / "u/c.2.0.0.0.0", "flip")
    manifest = collect(path, partial=True)
    assert manifest["valid"] == [0, 3]
    assert manifest["missing"] == [1, 2]
    report = verify(path)
    assert report.ok
    assert not report.complete
    with xarray.open_zarr(path) as found:
        assert found.valid.values.tolist() == [True, False, False, True]
        assert np.isnan(found.u.isel(member=[1, 2])).all()
        np.testing.assert_array_equal(found.u[3], values(3)["u"])
    assert (tmp_path / "run/commits/set-aside/0002/u.c.2.0.0.0.0").exists()
    write(path, 1)
    assert verify(path).seal == "stale"
    assert not verify(path).ok
    write(path, 2)
    collect(path)
    shutil.rmtree(tmp_path / "run/commits/set-aside")
    assert tree(tmp_path / "run") == whole


WRITER = """
import sys
from pathlib import Path
import numpy as np
import pipelines.ensemble.encoding
from pipelines.ensemble import read_commit, read_layout, write_member
path = Path(sys.argv[1])
layout = read_layout(path)
print("ready", flush=True)

def write(member):
    rng = np.random.default_rng(member)
    arrays = {n: rng.standard_normal(s.shape).astype(s.dtype) for n, s in layout.arrays.items()}
    provenance = {"config_digest": layout.config_digest, "seed": member}
    write_member(path, member, arrays, provenance, int(sys.argv[2]))
"""

WRITE_ALL = """
for member in range(layout.members):
    if read_commit(path, member) is None:
        write(member)
"""

# Each member is written by a child that kills itself just before a later one of its fsyncs.
KILL_AT_EACH_FSYNC = """
import os, signal
fsync, left = os.fsync, 0

def killing(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

for member in range(layout.members):
    child = os.fork()
    if child == 0:
        os.fsync, left = killing, member + 1
        write(member)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def start_writer(path: Path, fence: int, then: str = WRITE_ALL) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER + then, str(path), str(fence)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=120)
    return process.returncode


def without_volatile(run: Path) -> dict[str, bytes]:
    """The tree, with the fences (and so the seals) of the markers taken out."""
    found = tree(run)
    for name in [name for name in found if name.startswith("commits/0")]:
        document = json.loads(found[name])
        del document["fence"], document["seal"]
        found[name] = json.dumps(document, sort_keys=True).encode()
    return found


def test_killed_at_random_times_the_bytes_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    specs = (ArraySpec("u", (16, 2, 64, 64), ("time", "channel", "y", "x")), SPECS[1])
    paths = {name: plan(tmp_path / name, specs, 16) for name in ("whole", "killed")}
    process = start_writer(paths["whole"], 1)
    start = time.monotonic()
    assert finish(process) == 0
    # The span is that of the writing alone, so kills fall before, amid and between shards.
    span = time.monotonic() - start
    rng = np.random.default_rng(20)
    kills = 0
    for fence in range(1, 9):
        process = start_writer(paths["killed"], fence)
        time.sleep(rng.uniform(0, span / 6))
        process.send_signal(signal.SIGKILL)
        kills += finish(process) == -signal.SIGKILL
        assert verify(paths["killed"]).of("damaged") == []
    assert kills >= 3
    assert finish(start_writer(paths["killed"], 9)) == 0
    for path in paths.values():
        collect(path)
    assert without_volatile(tmp_path / "killed") == without_volatile(tmp_path / "whole")


def test_killed_at_every_step_of_a_write_nothing_is_damaged(tmp_path: Path) -> None:
    # Two shards and a marker, each a file and its directory: six fsyncs, six of eight killed.
    paths = {name: plan(tmp_path / name, members=8) for name in ("whole", "killed")}
    exits, _ = start_writer(paths["killed"], 1, KILL_AT_EACH_FSYNC).communicate(timeout=120)
    assert [int(code) for code in exits.split()] == [-signal.SIGKILL] * 6 + [0] * 2
    report = verify(paths["killed"])
    assert report.of("damaged") == []
    # The last kill comes after the marker's rename: it is whole, though not yet proof to a crash.
    assert report.of("committed") == [5, 6, 7]
    for path in paths.values():
        assert finish(start_writer(path, 2)) == 0
        collect(path)
    assert without_volatile(tmp_path / "killed") == without_volatile(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(small_disk: Path) -> None:
    specs = (ArraySpec("u", (256, 256), ("y", "x")),)
    path = plan(small_disk, specs)

    def put(member: int) -> None:
        write_member(path, member, values(member, specs), {"config_digest": DIGEST}, 1)

    put(0)
    put(1)
    before = tree(small_disk)
    full = r"writing member 2 of .*No space left on device: free some space"
    with pytest.raises(EnsembleError, match=full):
        put(2)
    assert tree(small_disk) == before
    assert verify(path).of("committed") == [0, 1]
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    put(2)
    put(3)
    collect(path)
    assert verify(path).ok


def test_a_full_disk_at_planning_leaves_no_store(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"\0" * (760 * 1024))
    with pytest.raises(EnsembleError, match=r"creating .* No space left on device"):
        plan(small_disk)
    assert not list(small_disk.glob("*ensemble*"))
