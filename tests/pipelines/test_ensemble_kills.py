"""Whatever is killed, and when: the ensemble ends as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.disks import in_memory
from support.ensembles import damage, plan, tree, write, written

from benchmarks.kills.__main__ import differences
from benchmarks.kills.blows import Aim, deal
from pipelines.ensemble import collect, verify

ROOT = Path(__file__).parents[2]

#: Other seeds and many more kills: see benchmarks/kills/__main__.py.
KILLS = (sys.executable, "-m", "benchmarks.kills", "--json")


def test_fifty_kills_of_sixty_four_members_change_no_byte() -> None:
    with in_memory() as place:  # a kill does not wait for a disk, and takes nothing from it
        command = [*KILLS, "--members", "64", "--kills", "50", "--directory", str(place)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["damaged"] == []
    assert found["differences"] == []
    assert found["complete"]
    assert sum(found["met"].values()) == 50
    assert found["met"]["in the write of a shard"] >= 3
    assert found["met"]["in the write of the commit"] >= 3
    assert done.returncode == 0


@settings(deadline=None)  # a busy machine is no fault
@given(seed=st.integers(0, 10**6), members=st.integers(1, 80), kills=st.integers(0, 80))
def test_every_kill_is_dealt_and_every_member_is_let_live_once(
    seed: int, members: int, kills: int
) -> None:
    cards = deal(np.random.default_rng(seed), members, kills)
    assert cards == deal(np.random.default_rng(seed), members, kills)
    assert sum(card is not None for card in cards) == kills
    assert len(cards) == members + kills
    assert cards[-1] is None


def test_kills_have_every_aim() -> None:
    cards = deal(np.random.default_rng(0), 64, 50)
    assert {card.aim for card in cards if card is not None} == set(Aim)
    assert {card.heard for card in cards if card is not None} == {True, False}


def test_other_bytes_and_missing_files_are_told_as_a_difference(tmp_path: Path) -> None:
    for name in ("one", "other"):
        written(tmp_path / name)
    assert differences(tmp_path / "one", tmp_path / "other") == []
    # As a later attempt writes it: what it computed is the same.
    write(tmp_path / "other" / "ensemble.zarr", 1, fence=2)
    assert differences(tmp_path / "one", tmp_path / "other") == []
    damage(tmp_path / "other/ensemble.zarr/u/c.1.0.0.0.0", "flip")
    (tmp_path / "other/commits/0003.json").unlink()
    assert differences(tmp_path / "one", tmp_path / "other") == [
        "commits/0003.json",
        "ensemble.zarr/u/c.1.0.0.0.0",
    ]


# A child for each run directory collects it, and dies just before a later one of all its fsyncs,
# renames and removals.
COLLECT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from pipelines.ensemble import collect

fsync, left = os.fsync, 0

def step(event, _arguments=()):
    global left
    if event in ("fsync", "os.rename", "os.remove", "os.mkdir"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def killing(descriptor):
    step("fsync")
    fsync(descriptor)

partial, *runs = sys.argv[1:]
for number, run in enumerate(runs, start=1):
    child = os.fork()
    if child == 0:
        os.fsync, left = killing, number
        sys.addaudithook(step)
        collect(Path(run) / "ensemble.zarr", partial == "partial")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def without_one(run: Path) -> None:
    """A run one of whose members has no commit, and another one no intact shard."""
    path = plan(run)
    for member in (0, 2, 3):
        write(path, member)
    damage(path / "u/c.2.0.0.0.0", "flip")


@pytest.mark.parametrize("partial", ["partial", "whole"])
def test_a_collection_killed_at_every_step_is_done_by_the_next(
    tmp_path: Path, partial: str
) -> None:
    make = without_one if partial == "partial" else written
    make(tmp_path / "run")
    # Left by a writer that was killed; whole collections remove it.
    (tmp_path / "run/ensemble.zarr/u/.c.1.0.0.0.0.killed.tmp").touch()
    runs = [shutil.copytree(tmp_path / "run", tmp_path / f"{n:02d}") for n in range(24)]
    command = [sys.executable, "-c", COLLECT_AND_DIE, partial, *map(str, runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    codes = [int(code) for code in done.stdout.split()]
    kills = codes.count(-signal.SIGKILL)
    assert codes == [-signal.SIGKILL] * kills + [0] * (len(codes) - kills)
    assert kills >= 6
    whole = tree(runs[-1])
    for run in runs[:kills]:
        path = run / "ensemble.zarr"
        if partial == "whole":
            assert verify(path).of("committed") == [0, 1, 2, 3]
        elif verify(path).ok:  # only what is sealed, and so declares its holes, is in order
            assert verify(path).seal == "valid"
        collect(path, partial == "partial")
        left = {name: content for name, content in tree(run).items() if "commits/." not in name}
        assert {n: c for n, c in left.items() if ".tmp" not in n} == {
            n: c for n, c in whole.items() if ".tmp" not in n and "commits/." not in n
        }
