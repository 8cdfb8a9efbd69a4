"""The diffusion job on a real Slurm: one array, a different fault for each of its members.

Whatever befell them, the run ends with the same bytes as its twin on this machine, which nothing
befell: data, weights, optimizer, generators, metrics, samples.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.comparison import differences
from support.diffusion import diffusion_plan
from support.faults import run_until
from support.waiting import wait

from cluster import Cause, Member, RobustExecutor
from cluster.slurmbox import SlurmBox
from cluster.stage import Stage
from cluster.status import State, run_status
from jobs.launch import Launcher

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

OVERRIDES = (
    "members=5",
    "training.epochs=150",
    "resources.train.gpus=1",  # one member a node
    "resources.train.signal_delay=20",
    "resources.train.checkpoint_seconds=2.0",
)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on this machine that nothing befell."""
    plan = diffusion_plan(tmp_path_factory.mktemp("twin"), *OVERRIDES)
    run_until(plan, "local", "collect")
    return plan.directory


class Victim:
    """A member of the array, and how to reach it."""

    def __init__(self, member: Member) -> None:
        self.member = member

    @property
    def job_id(self) -> str:
        job_id = self.member.ledger.last_job_id()
        assert job_id is not None
        return job_id

    def causes(self) -> list[Cause | None]:
        return [attempt.cause for attempt in self.member.ledger.attempts()]

    def pid(self) -> int:
        return int(self.member.ledger.attempts()[-1].where["pid"])

    def node(self) -> str:
        return str(self.member.ledger.attempts()[-1].where["slurm"]["job_nodelist"])

    def run_a_while(self) -> None:
        progress = self.member.progress_file
        wait(lambda: progress.exists() and '"step": 0' not in progress.read_text(), "first steps")
        time.sleep(random.uniform(0.0, 5.0))


def preempt(victim: Victim, folder: Path) -> None:
    victim.run_a_while()
    urgent = RobustExecutor(folder / "urgent", "slurm")
    urgent.update_parameters(slurm_partition="urgent", timeout_min=2, mem_gb=0.2)
    extra = {"exclusive": True, "nodelist": victim.node()}
    urgent.update_parameters(slurm_additional_parameters=extra)
    urgent.submit(time.sleep, 1).wait()
    wait(lambda: Cause.PREEMPTION in victim.causes(), "the preempted member to leave")


def lose_node(victim: Victim, box: SlurmBox) -> None:
    victim.run_a_while()
    node, pid = victim.node(), victim.pid()
    box.kill_node(node)
    os.kill(pid, signal.SIGKILL)  # the member's process goes with its node
    time.sleep(3.0)
    box.restore_node(node)
    wait(lambda: len(victim.causes()) > 1, "the member to start again")


def shorten_limit(victim: Victim) -> None:
    victim.run_a_while()
    job = f"JobId={victim.job_id}"
    subprocess.run(["scontrol", "update", job, "TimeLimit=1"], check=True)
    wait(lambda: Cause.TIMEOUT in victim.causes(), "the time limit")


def kill(victim: Victim) -> None:
    victim.run_a_while()
    os.kill(victim.pid(), signal.SIGKILL)
    wait(lambda: Cause.KILLED in victim.causes(), "the killed member to be noticed")


def scancel(victim: Victim) -> None:
    victim.run_a_while()
    subprocess.run(["scancel", victim.job_id], check=True)
    wait(lambda: Cause.CANCELLED in victim.causes(), "the cancelled member to leave")


def _all_ended(run: Path) -> bool:
    open_states = (State.QUEUED, State.RUNNING, State.WAITING)
    return not any(member.state in open_states for member in run_status(run))


def test_five_faults_in_one_array_change_nothing(
    slurmbox: SlurmBox, twin: Path, tmp_path: Path
) -> None:
    plan = diffusion_plan(tmp_path, *OVERRIDES)
    launcher = Launcher(plan, "slurm")
    launcher.lay_out()
    launcher.submit()
    victims = [Victim(member) for member in Stage.load(plan.directory, "train")]
    faults: list[Callable[[Victim], None]] = [
        lambda victim: preempt(victim, tmp_path),
        lambda victim: lose_node(victim, slurmbox),
        shorten_limit,
        kill,
        scancel,
    ]
    with ThreadPoolExecutor(len(faults)) as threads:
        for dealt in [threads.submit(f, v) for f, v in zip(faults, victims, strict=True)]:
            dealt.result()
    wait(lambda: _all_ended(plan.directory), "the array to end", 400)
    assert {m.state for m in run_status(plan.directory)} != {State.FINISHED}, "one was cancelled"
    launcher.submit()
    wait(lambda: _all_ended(plan.directory), "what was cancelled to end", 300)
    assert {m.state for m in run_status(plan.directory)} == {State.FINISHED}
    assert differences(plan.directory, twin) == []
    expected = (Cause.PREEMPTION, Cause.NODE_FAILURE, Cause.TIMEOUT, Cause.KILLED, Cause.CANCELLED)
    for victim, cause in zip(victims, expected, strict=True):
        assert cause in victim.causes(), f"{victim.member.name}: {victim.causes()}"
