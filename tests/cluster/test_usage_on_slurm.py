"""What is reported of members on a real Slurm, held against what Slurm's accounting says."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from support.commandline import yaoki
from support.waiting import wait

from cluster import Attempt, Cause, RobustExecutor
from cluster.accounts.bookkeeping import run_usage
from cluster.accounts.usage import MemberUsage
from cluster.scheduler import sacct, slurm
from cluster.slurmbox import SlurmBox

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

# Workers cannot import the tests: send this module along with what is pickled from it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: Memory that is asked for and held, MiB; besides, a worker with torch takes up to 400.
ASKED, HELD, WORKER = 2048, 600, 400
STEPS, PAUSE, KILLED_AT = 16, 0.25, 8


class Holder:
    """Counts steps and holds memory."""

    def __init__(self) -> None:
        self.held = np.ones(HELD << 17)
        self.steps_done, self.steps_total = 0, STEPS

    def state_dict(self) -> Mapping[str, Any]:
        return {"steps_done": self.steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps_done = state["steps_done"]


def hold(killed_in_attempt: int, attempt: Attempt) -> int:
    holder = Holder()
    attempt.restore(holder)
    for step in attempt.steps(holder):
        if (step, attempt.number) == (KILLED_AT, killed_in_attempt):
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait(PAUSE)
        holder.steps_done += 1
    return holder.steps_done


@pytest.fixture(scope="module")
def run(slurmbox: SlurmBox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a member that is killed and requeued, and of one that is left alone."""
    folder = tmp_path_factory.mktemp("usage")
    executor = RobustExecutor(folder, "slurm", checkpoint_seconds=4 * PAUSE)
    executor.update_parameters(mem_gb=ASKED / 1024, timeout_min=10, slurm_partition="gpu")
    jobs = executor.map_array(hold, [1, 0])
    assert [job.result() for job in jobs] == [STEPS, STEPS]
    wait(lambda: all(_is_booked(job.job_id) for job in jobs), "the end of the jobs in accounting")
    return folder


def _is_booked(job: str) -> bool:
    runs = sacct.job_runs([job]).get(job, [])
    return bool(runs) and all(run.ended and run.peak for run in runs)


def _members(run: Path) -> tuple[MemberUsage, MemberUsage]:
    (stage,) = run_usage(run).stages
    killed, calm = stage.members
    return killed, calm


def test_causes_and_lost_work_are_told(run: Path) -> None:
    killed, calm = _members(run)
    assert [a.cause for a in killed.attempts] == [Cause.KILLED, Cause.FINISHED]
    assert [a.cause for a in calm.attempts] == [Cause.FINISHED]
    assert 0 < killed.attempts[0].parts.lost < KILLED_AT * PAUSE
    assert killed.attempts[0].parts.useful > 0
    assert calm.totals.parts.lost == killed.attempts[1].parts.lost == 0
    assert calm.totals.parts.useful >= STEPS * PAUSE - calm.totals.parts.saving


def test_memory_is_what_was_held(run: Path) -> None:
    for member in _members(run):
        for attempt in member.attempts:
            assert attempt.sampled
            assert attempt.memory == ASKED
            assert HELD <= (attempt.peak or 0) <= HELD + WORKER


def test_allocated_time_is_that_of_accounting(run: Path) -> None:
    command = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2"]
    for member, job in zip(_members(run), _jobs(run), strict=True):
        booked = slurm.run([*command, "--format=ElapsedRaw", f"--jobs={job}"]).split()
        # Accounting counts whole seconds, at either end.
        near = pytest.approx(sum(map(int, booked)), abs=2 * len(booked))
        assert member.totals.parts.allocated == near
        assert not any(attempt.estimated for attempt in member.attempts)


def _jobs(run: Path) -> list[str]:
    (stage,) = run_usage(run).stages
    return [str(member.ledger.last_job_id()) for member in stage.stage]


def test_a_copy_is_reported_where_there_is_no_slurm(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = yaoki("report", run, "--json").record
    copy = shutil.copytree(run, tmp_path / "copy")
    monkeypatch.setenv("PATH", str(tmp_path))
    there = yaoki("report", copy, "--json").record
    assert here["accounting"] is None
    assert "'sacct' is not installed" in there["accounting"]
    # Less memory is advised only where Slurm saw all processes.
    assert "memory" in {line["setting"] for line in here["advice"]}
    assert "memory" not in {line["setting"] for line in there["advice"]}
    for told, known in zip(there["members"], here["members"], strict=True):
        assert told["causes"] == known["causes"]
        assert told["allocated"] <= known["allocated"]
        assert HELD <= told["peak"] <= known["peak"]
