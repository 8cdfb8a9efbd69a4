import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ensembles import (
    ATTRIBUTES,
    MEMBERS,
    SPECS,
    damage,
    plan,
    tree,
    values,
    write,
    written,
)

from pipelines.ensemble import (
    EnsembleError,
    collect,
    create_ensemble,
    verify,
    write_member,
)

ROOT = Path(__file__).parents[2]


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
