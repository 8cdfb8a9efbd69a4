"""A member over two nodes of a real Slurm: every fault costs both ranks one attempt, and no bit.

The members run and meet their faults at the same time, as in test_on_slurm.py.
"""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.small_work import equal
from support.team_work import Faults, train_together
from support.waiting import wait

from cluster import Cause, RobustExecutor, RobustJob
from cluster.slurmbox import SlurmBox

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

STEPS, PAUSE = 60, 0.1


def _submit(folder: Path, avoided: str, faults: Faults) -> RobustJob:
    executor = RobustExecutor(folder, "slurm", checkpoint_seconds=1.0)
    executor.update_parameters(nodes=2, tasks_per_node=1, cpus_per_task=1, mem_gb=0.6)
    executor.update_parameters(timeout_min=5, slurm_partition="gpu", slurm_exclude=avoided)
    return executor.submit(train_together, 5, STEPS, faults=faults, pause=PAUSE)


def _run_a_while(job: RobustJob) -> None:
    progress = job.member.progress_file
    wait(lambda: progress.exists() and '"step": 0' not in progress.read_text(), "first steps")


def _preempt(job: RobustJob) -> None:
    _run_a_while(job)
    urgent = RobustExecutor(job.member.run / "urgent", "slurm")
    urgent.update_parameters(slurm_partition="urgent", timeout_min=2, mem_gb=0.2)
    # The second node, where no batch script runs.
    extra = {"exclusive": True, "nodelist": "n3"}
    urgent.update_parameters(slurm_additional_parameters=extra)
    urgent.submit(time.sleep, 1).wait()


def _signal(job: RobustJob) -> None:
    _run_a_while(job)
    subprocess.run(["scancel", "--signal=USR2", job.job_id], check=True)


def _nothing(job: RobustJob) -> None:
    """The member deals itself the fault."""


def _left_after(job: RobustJob, log: str) -> list[str]:
    text = (job.member.logs / log).read_text()
    return [line.split("after ")[1].split(":")[0] for line in text.splitlines() if "after" in line]


def test_a_member_of_two_nodes_survives_as_one(
    slurmbox: SlurmBox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("two nodes")
    killed: Faults = {(1, 1): ("SIGKILL", 12)}
    plans: dict[Cause, tuple[RobustJob, Callable[[RobustJob], None]]] = {
        Cause.KILLED: (_submit(folder / "killed", "n2,n3", killed), _nothing),
        Cause.PREEMPTION: (_submit(folder / "preempted", "n0,n1", {}), _preempt),
    }
    told = _submit(folder / "told", "n2,n3", {})
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda plan: plan[1](plan[0]), [*plans.values(), (told, _signal)]))
        twin: dict[str, Any] = _twin(folder / "twin")
    for cause, (job, _) in [*plans.items(), (Cause.PREEMPTION, (told, _signal))]:
        assert equal(job.result(), twin)
        attempts = job.member.ledger.attempts()
        assert [attempt.cause for attempt in attempts] == [cause, Cause.FINISHED]
        nodes = [attempt.where["slurm"]["job_nodelist"] for attempt in attempts]
        assert set(nodes) <= {"n[0-1]", "n[2-3]"}
    for job in (told, plans[Cause.PREEMPTION][0]):
        left = _left_after(job, "0001.log")
        assert left == _left_after(job, "0001-rank1.log")
        assert len(left) == 1


def _twin(folder: Path) -> dict[str, Any]:
    executor = RobustExecutor(folder, "local")
    executor.update_parameters(nodes=2)
    result: dict[str, Any] = executor.submit(train_together, 5, STEPS).result()
    return result
