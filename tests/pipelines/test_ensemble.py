import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from support.disks import in_memory
from support.ensembles import (
    ATTRIBUTES,
    DIGEST,
    MEMBERS,
    SPECS,
    plan,
    tree,
    values,
    write,
    written,
)

from pipelines.ensemble import (
    ArraySpec,
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

ROOT = Path(__file__).parents[2]


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


def test_inodes_stay_few() -> None:
    members, specs = 1024, (ArraySpec("loss", (), ()),)
    with in_memory() as run:
        path = plan(run, specs, members)
        for member in range(members):
            write_member(path, member, values(member, specs), {"config_digest": DIGEST}, 1)
        collect(path)
        names = [found.relative_to(run).as_posix() for found in run.rglob("*")]
    shards = {spec.shard(member) for spec in specs for member in range(members)}
    markers = {f"commits/{member:04d}.json" for member in range(members)}
    promised = {f"ensemble.zarr/{shard}" for shard in shards} | markers
    assert promised < set(names)
    assert len(promised) == 2 * members
    assert len(names) <= 2 * members + 20


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
