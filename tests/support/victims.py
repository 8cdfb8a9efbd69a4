"""Members of an array on a real Slurm, and what befalls them."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from cluster import Cause, Member, RobustExecutor
from cluster.slurmbox import SlurmBox
from cluster.status import State, run_status
from support.waiting import wait


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
        wait(lambda: self.causes()[-1:] == [None], "an attempt that runs")
        progress = self.member.progress_file
        wait(lambda: progress.exists() and '"step": 0' not in progress.read_text(), "first steps")
        time.sleep(random.uniform(0.0, 5.0))


def take_node(node: str, folder: Path) -> None:
    """Let an urgent job have a whole node for a second: who works there is preempted."""
    urgent = RobustExecutor(folder / "urgent", "slurm")
    urgent.update_parameters(slurm_partition="urgent", timeout_min=2, mem_gb=0.2)
    extra = {"exclusive": True, "nodelist": node}
    urgent.update_parameters(slurm_additional_parameters=extra)
    urgent.submit(time.sleep, 1).wait()


def preempt(victim: Victim, folder: Path) -> None:
    victim.run_a_while()
    take_node(victim.node(), folder)
    wait(lambda: Cause.PREEMPTION in victim.causes(), "the preempted member to leave")


def lose_node(victim: Victim, box: SlurmBox) -> None:
    victim.run_a_while()
    attempts, node, pid = len(victim.causes()), victim.node(), victim.pid()
    box.kill_node(node)
    os.kill(pid, signal.SIGKILL)  # the member's process goes with its node
    time.sleep(3.0)
    box.restore_node(node)
    wait(lambda: len(victim.causes()) > attempts, "the member to start again")


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


def all_ended(run: Path) -> bool:
    """Whether nothing of a run waits or works."""
    open_states = (State.QUEUED, State.RUNNING, State.WAITING)
    return not any(member.state in open_states for member in run_status(run))
