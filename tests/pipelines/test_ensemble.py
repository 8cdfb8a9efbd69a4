import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ensemble import (
    ArraySpec,
    Commit,
    Coordinate,
    EnsembleError,
    collect,
    create_ensemble,
    gather_provenance,
    read_commit,
    read_layout,
    verify,
    write_member,
)
from pipelines.ensemble.layout import Codec, default_chunks

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


def test_members_read_back_and_xarray_shows_them_labelled(tmp_path: Path) -> None:
    path = written(tmp_path / "übung mit Leerzeichen")
    collect(path)
    with xarray.open_zarr(path) as found:
        assert found.u.dims == ("member", "time", "channel", "y", "x")
        assert found.u.units == "m s-1"
        assert found.u.long_name == "velocity"
        assert found.time.units == "s"
        assert found.valid.dims == ("member",)
        assert found.valid.all()
        assert "valid" in found.u.coords
        for member in range(MEMBERS):
            np.testing.assert_array_equal(found.u.sel(member=member), values(member)["u"])
            np.testing.assert_array_equal(found.loss.sel(member=member), values(member)["loss"])


def test_metadata_is_consolidated_and_readable_by_zarr(tmp_path: Path) -> None:
    path = plan(tmp_path)
    group = zarr.open_consolidated(path, mode="r")
    assert sorted(group.array_keys()) == ["loss", "member", "time", "u", "valid"]
    array = group["u"]
    assert isinstance(array, zarr.Array)
    assert array.shards == (1, 4, 2, 8, 8)
    assert np.isnan(np.asarray(array[:])).all()


def test_a_member_of_nan_is_a_file_too(tmp_path: Path) -> None:
    path = plan(tmp_path)
    nans = {spec.name: np.full(spec.shape, np.nan, spec.dtype) for spec in SPECS}
    commit = write_member(path, 0, nans, {"config_digest": DIGEST}, 0)
    assert all(
        (path / name).stat().st_size == stored.size for name, stored in commit.shards.items()
    )
    assert verify(path).of("committed") == [0]


@pytest.mark.parametrize("codec", ["none", "lz4-bitshuffle"])
def test_codecs_lose_nothing(tmp_path: Path, codec: Codec) -> None:
    specs = (ArraySpec("w", (6, 32), ("time", "x"), codec=codec, chunks=(2, 32)),)
    path = plan(tmp_path, specs)
    write_member(path, 2, values(2, specs), {"config_digest": DIGEST}, 1)
    np.testing.assert_array_equal(zarr.open_array(path / "w", mode="r")[2], values(2, specs)["w"])


@given(st.lists(st.integers(1, 300), max_size=4), st.sampled_from([2, 4, 8]))
def test_default_chunks_divide_the_shape_and_no_divisor_is_nearer(
    shape: list[int], itemsize: int
) -> None:
    chunks = default_chunks(shape, itemsize)
    size = itemsize
    for length, chunk in zip(reversed(shape), reversed(chunks), strict=True):
        assert length % chunk == 0
        distance = abs(np.log2(size * chunk) - 20)
        others = [d for d in range(1, length + 1) if length % d == 0]
        assert all(abs(np.log2(size * d) - 20) >= distance - 1e-9 for d in others)
        size *= chunk


def test_planning_twice_changes_nothing(tmp_path: Path) -> None:
    plan(tmp_path)
    before = tree(tmp_path)
    plan(tmp_path)
    assert tree(tmp_path) == before


def test_planners_that_race_leave_one_store(tmp_path: Path) -> None:
    plan(tmp_path / "alone")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: plan(tmp_path / "raced"), range(24)))
    assert tree(tmp_path / "raced") == tree(tmp_path / "alone")


def test_a_planner_killed_before_the_record_is_finished_by_the_next(tmp_path: Path) -> None:
    layout = read_layout(plan(tmp_path))
    before = tree(tmp_path)
    layout.record.unlink()
    plan(tmp_path)
    assert tree(tmp_path) == before


def test_another_jobs_store_is_refused(tmp_path: Path) -> None:
    path = plan(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(EnsembleError, match=r"another job: config_digest.*'beef'"):
        create_ensemble(path, MEMBERS, SPECS, ATTRIBUTES | {"config_digest": "beef"})
    with pytest.raises(EnsembleError, match="another job: yaoki"):
        create_ensemble(path, MEMBERS + 1, SPECS, ATTRIBUTES)
    assert tree(tmp_path) == before


def test_foreign_and_unreadable_stores_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign" / "store.zarr"
    zarr.create_group(foreign, zarr_format=3)
    for use in (verify, collect, read_layout):
        with pytest.raises(EnsembleError, match="not a yaoki ensemble"):
            use(foreign)
    with pytest.raises(EnsembleError, match="not a yaoki ensemble"):
        create_ensemble(foreign, MEMBERS, SPECS, ATTRIBUTES)
    with pytest.raises(EnsembleError, match="no Zarr group"):
        verify(tmp_path / "nothing.zarr")
    (foreign / "zarr.json").write_bytes(b"\x00not json")
    with pytest.raises(EnsembleError, match="not the metadata of a Zarr v3 group"):
        verify(foreign)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "1st"}, "not a name"),
        ({"name": "valid"}, "not a name"),
        ({"dims": ("x",)}, "one name for each axis"),
        ({"dtype": "int32"}, "dtype 'int32'"),
        ({"chunks": (3, 2, 8, 8)}, "do not divide"),
        ({"chunks": (2, 2)}, "do not divide"),
    ],
)
def test_impossible_specifications_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        dataclasses.replace(SPECS[0], **changes)


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = plan(tmp_path)
    before = tree(tmp_path)
    provenance = {"config_digest": DIGEST}
    good = values(0)
    with pytest.raises(EnsembleError, match=r"brings arrays \['u'\]"):
        write_member(path, 0, {"u": good["u"]}, provenance, 1)
    with pytest.raises(EnsembleError, match=r"found float64 .* expected float32"):
        write_member(path, 0, good | {"u": good["u"].astype(float)}, provenance, 1)
    with pytest.raises(EnsembleError, match="member 4 of an ensemble of 4"):
        write_member(path, MEMBERS, good, provenance, 1)
    with pytest.raises(EnsembleError, match="configuration 'beef'"):
        write_member(path, 0, good, {"config_digest": "beef"}, 1)
    assert tree(tmp_path) == before


def test_the_higher_fence_stays(tmp_path: Path) -> None:
    path = plan(tmp_path)
    write(path, 0, fence=2)
    after = tree(tmp_path)
    with pytest.raises(EnsembleError, match="attempt 1 came too late"):
        write(path, 0, fence=1)
    assert write(path, 0, fence=2) == read_commit(path, 0)
    assert tree(tmp_path) == after
    with pytest.raises(EnsembleError, match="other bytes"):
        write_member(path, 0, values(1), {"config_digest": DIGEST}, 2)
    assert tree(tmp_path) == after
    write_member(path, 0, values(1), {"config_digest": DIGEST}, 3)
    found = read_commit(path, 0)
    assert found is not None
    assert found.fence == 3
    assert verify(path).of("committed") == [0]


def test_attempts_that_write_one_member_at_once_leave_one_whole_member(tmp_path: Path) -> None:
    path = plan(tmp_path)

    def attempt(fence: int) -> str:
        try:
            write_member(path, 0, values(fence), {"config_digest": DIGEST}, fence)
        except EnsembleError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        assert all(not said or "came too late" in said for said in pool.map(attempt, range(16)))
    found = read_commit(path, 0)
    assert found is not None
    assert found.fence == 15
    np.testing.assert_array_equal(zarr.open_array(path / "u", mode="r")[0], values(15)["u"])
    assert verify(path).of("committed") == [0]


def test_writing_again_heals_a_damaged_shard_and_a_torn_marker(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = tree(tmp_path)
    (path / "u/c.1.0.0.0.0").write_bytes(b"")
    (tmp_path / "commits/0002.json").write_bytes(b"{")
    assert verify(path).of("damaged") == [1, 2]
    write(path, 1)
    write(path, 2)
    assert tree(tmp_path) == before


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


def test_nothing_at_all_is_not_sealed_even_partially(tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match="nothing to seal"):
        collect(plan(tmp_path), partial=True)


def test_collecting_twice_changes_nothing_and_progress_is_told(tmp_path: Path) -> None:
    path = written(tmp_path)
    told: list[tuple[int, int]] = []
    collect(path, progress=lambda done, of: told.append((done, of)))
    assert told == [(n + 1, MEMBERS) for n in range(MEMBERS)]
    before = tree(tmp_path)
    collect(path)
    assert tree(tmp_path) == before
    report = verify(path)
    assert report.ok
    assert report.complete
    assert report.seal == "valid"


def test_inodes_stay_few(tmp_path: Path) -> None:
    specs = (ArraySpec("loss", (), ()),)
    path = plan(tmp_path, specs, members=64)
    for member in range(64):
        write_member(path, member, values(member, specs), {"config_digest": DIGEST}, 1)
    collect(path)
    assert sum(1 for _ in tmp_path.rglob("*")) <= 64 + 64 + 20


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
    # Two shards and a marker, each a file and its directory: six fsyncs, so six of eight are killed.
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


def test_verifying_imports_neither_zarr_nor_torch(tmp_path: Path) -> None:
    path = written(tmp_path)
    code = (
        "import sys; from pathlib import Path; from pipelines.ensemble import collect, verify;"
        f"collect(Path({str(path)!r})); assert verify(Path({str(path)!r})).ok;"
        "assert not {'zarr', 'torch', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_provenance_tells_git_slurm_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    assert gather_provenance(DIGEST, 3, tmp_path)["git"] is None
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    found = gather_provenance(DIGEST, 3, tmp_path)
    assert found["git"]["dirty"] is False
    assert len(found["git"]["revision"]) == 40
    (tmp_path / "new").touch()
    assert gather_provenance(DIGEST, 3, tmp_path)["git"]["dirty"] is True
    assert found["slurm"]["job_id"] == "42"
    assert found["versions"]["zarr"] == zarr.__version__
    assert (found["config_digest"], found["seed"]) == (DIGEST, 3)


def test_a_stranger_can_read_it_with_the_document_alone(tmp_path: Path) -> None:
    """A reader written from docs/data-format.md, with neither Zarr nor our code."""
    specs = (ArraySpec("w", (6, 4, 8), ("time", "y", "x"), chunks=(2, 4, 4)),)
    path = plan(tmp_path, specs)
    write_member(path, 2, values(2, specs), {"config_digest": DIGEST}, 1)

    raw = (tmp_path / "commits/0002.json").read_bytes()
    cut = raw.rindex(b' "seal": "')
    assert raw[cut:] == b' "seal": "' + hashlib.sha256(raw[:cut]).hexdigest().encode() + b'"\n}\n'
    ((name, stored),) = json.loads(raw)["shards"].items()
    shard = (path / name).read_bytes()
    assert stored == {"size": len(shard), "sha256": hashlib.sha256(shard).hexdigest()}

    described = json.loads((path / "zarr.json").read_bytes())["attributes"]["yaoki"]["arrays"]["w"]
    shape, chunks = described["shape"], described["chunks"]
    grid = [size // chunk for size, chunk in zip(shape, chunks, strict=True)]
    index = np.frombuffer(shard[-16 * math.prod(grid) - 4 : -4], "<u8").reshape(*grid, 2)
    found = np.empty(shape, "<f4")
    for place in np.ndindex(*grid):
        offset, length = (int(number) for number in index[place])
        chunk = np.frombuffer(shard[offset : offset + length], "<f4").reshape(chunks)
        found[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunks, strict=True))] = chunk
    np.testing.assert_array_equal(found, values(2, specs)["w"])
