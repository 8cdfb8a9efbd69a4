"""Every fault that Slurm deals out, on a real Slurm: the member ends as if there had been none.

The members run at the same time, so the file takes as long as the slowest of them, not the sum.
"""

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.small_work import equal, train

from cluster import Cause, RobustExecutor, RobustJob, slurm
from cluster.slurmbox import SlurmBox
from cluster.status import State, run_status

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

STEPS, PAUSE = 120, 0.25


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted member comes to."""
    executor = RobustExecutor(tmp_path_factory.mktemp("twin"), "local")
    result: dict[str, Any] = executor.submit(train, 11, STEPS).result()
    return result


@pytest.fixture(scope="module")
def jobs(
    slurmbox: SlurmBox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, RobustJob]]:
    """One job a fault, all started at once; each test deals its fault to its own job."""
    folder = tmp_path_factory.mktemp("runs with spaces")
    names = ("timeout", "preempted", "cancelled", "node down", "killed", "told")
    jobs = {name: _submit(folder / name, name) for name in names}
    yield jobs
    slurm.cancel([job.job_id for job in jobs.values() if not job.done()])


def _submit(folder: Path, name: str) -> RobustJob:
    executor = RobustExecutor(folder, "slurm", checkpoint_seconds=2.0)
    executor.update_parameters(cpus_per_task=1, mem_gb=0.9, slurm_partition="gpu")
    # Slurm counts limits in minutes: 120 steps of .25 s and a slow start do not fit in one.
    limit = {"timeout_min": 1, "slurm_signal_delay_s": 40} if name == "timeout" else {}
    executor.update_parameters(**{"timeout_min": 10, **limit})
    return executor.submit(train, 11, STEPS, pause=PAUSE)


def _wait(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def _in_the_middle(job: RobustJob) -> bool:
    progress = job.member.progress_file
    return progress.exists() and '"step": 0' not in progress.read_text()


def _run_a_while(job: RobustJob) -> None:
    _wait(lambda: _in_the_middle(job), f"{job.job_id} to take its first steps")
    time.sleep(random.uniform(0.0, 4.0))


def _causes(job: RobustJob) -> list[Cause | None]:
    return [attempt.cause for attempt in job.member.ledger.attempts()]


def _pid(job: RobustJob) -> int:
    return int(job.member.ledger.attempts()[-1].where["pid"])


def test_scancel_saves_and_retry_goes_on(jobs: dict[str, RobustJob], twin: dict[str, Any]) -> None:
    job = jobs["cancelled"]
    _run_a_while(job)
    subprocess.run(["scancel", job.job_id], check=True)
    _wait(job.done, "the cancelled member to leave")
    assert _causes(job) == [Cause.CANCELLED]
    assert run_status(job.stage.run)[0].state is State.CANCELLED
    saved = list(job.member.checkpoints.glob("*.pt"))
    executor = RobustExecutor(job.stage.run, "slurm", checkpoint_seconds=2.0)
    executor.update_parameters(cpus_per_task=1, mem_gb=0.9, timeout_min=10)
    executor.send([0], tag="-retry")
    assert equal(job.result(), twin)
    assert saved
    assert _causes(job) == [Cause.CANCELLED, Cause.FINISHED]


def test_a_killed_process_is_started_again(
    jobs: dict[str, RobustJob], twin: dict[str, Any]
) -> None:
    job = jobs["killed"]
    _run_a_while(job)
    os.kill(_pid(job), 9)
    assert equal(job.result(), twin)
    assert _causes(job) == [Cause.KILLED, Cause.FINISHED]


def test_term_out_of_the_blue_is_answered(jobs: dict[str, RobustJob], twin: dict[str, Any]) -> None:
    job = jobs["told"]
    _run_a_while(job)
    os.kill(_pid(job), 15)
    assert equal(job.result(), twin)
    assert _causes(job) == [Cause.PREEMPTION, Cause.FINISHED]


def test_a_lost_node_costs_no_more_than_the_time_since_the_last_save(
    jobs: dict[str, RobustJob], twin: dict[str, Any], slurmbox: SlurmBox
) -> None:
    job = jobs["node down"]
    _run_a_while(job)
    node = subprocess.run(
        ["squeue", "--noheader", "--format=%N", f"--jobs={job.job_id}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    slurmbox.kill_node(node)
    try:
        _wait(lambda: len(_causes(job)) > 1, "the member to start on another node")
    finally:
        slurmbox.restore_node(node)
    assert equal(job.result(), twin)
    assert _causes(job)[0] in (Cause.NODE_FAILURE, Cause.KILLED)


def test_the_time_limit_costs_nothing(jobs: dict[str, RobustJob], twin: dict[str, Any]) -> None:
    job = jobs["timeout"]
    assert equal(job.result(), twin)
    assert _causes(job)[0] is Cause.TIMEOUT
    assert _causes(job)[-1] is Cause.FINISHED


def test_preemption_saves_within_the_grace_time(
    jobs: dict[str, RobustJob], twin: dict[str, Any], tmp_path: Path
) -> None:
    job = jobs["preempted"]
    _run_a_while(job)
    urgent = RobustExecutor(tmp_path, "slurm")
    urgent.update_parameters(slurm_partition="urgent", timeout_min=2, mem_gb=0.2)
    urgent.update_parameters(slurm_additional_parameters={"exclusive": True, "nodes": 4})
    blocker = urgent.submit(time.sleep, 1)
    _wait(lambda: Cause.PREEMPTION in _causes(job), "the member to be preempted")
    blocker.wait()
    assert equal(job.result(), twin)
    assert set(_causes(job)[:-1]) == {Cause.PREEMPTION}
