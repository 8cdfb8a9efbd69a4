"""Two clusters to deal out faults on, under the same names: the fake that executes, and the box."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from cluster import RobustJob
from cluster.scheduler import slurm
from cluster.slurmbox import SlurmBox
from support.fake_slurm import FakeSlurm
from support.victims import take_node
from support.waiting import wait

FREE_NODES, PREEMPTED_NODE, LOST_NODE = ("n0", "n1"), "n2", "n3"

#: A variable that a scene's processes, and no others, have in their environment.
MARK = "YAOKI_SCENE"


class Cluster(Protocol):
    """What befalls a job, and the pace of the place.

    Attributes:
        pause: Seconds that a step takes.
        most: Seconds that a fault may let the member work.
        slowness: The factor that makes a member outlast a limit of a minute.
    """

    pause: float
    most: float
    slowness: float

    def preempt(self, job: RobustJob, folder: Path) -> None:
        """Take the job's resources for another."""

    def lose_node(self, job: RobustJob) -> None:
        """Lose the job's node for a while."""


@dataclass
class FakeCluster:
    """The fake; a minute of a time limit lasts half of one."""

    fake: FakeSlurm
    pause: float = 0.05
    most: float = 1.0
    slowness: float = 4.0

    def preempt(self, job: RobustJob, folder: Path) -> None:
        self.fake.preempt(job.job_id)

    def lose_node(self, job: RobustJob) -> None:
        self.fake.lose(LOST_NODE)
        wait(lambda: slurm.queued_states([job.job_id])[job.job_id] == "PENDING", "the end")
        self.fake.restore(LOST_NODE)


@dataclass
class RealCluster:
    """A real Slurm."""

    box: SlurmBox
    pause: float = 0.25
    most: float = 4.0
    slowness: float = 1.0

    def preempt(self, job: RobustJob, folder: Path) -> None:
        take_node(PREEMPTED_NODE, folder)

    def lose_node(self, job: RobustJob) -> None:
        self.box.kill_node(LOST_NODE)
        # The member's process goes with its node.
        os.kill(int(job.member.ledger.attempts()[-1].where["pid"]), signal.SIGKILL)
        wait(lambda: slurm.queued_states([job.job_id]) != {}, "Slurm to answer")
        time.sleep(3.0)
        self.box.restore_node(LOST_NODE)


def kill_batch_shell(scene: str) -> None:
    """Send SIGKILL to the batch script of a scene: no exit trap runs."""
    (shell,) = (process for process in psutil.process_iter() if _is_batch_shell(process, scene))
    shell.kill()


def _is_batch_shell(process: psutil.Process, scene: str) -> bool:
    try:
        own = process.environ().get(MARK) == scene
        parent = process.parent()
        # The shell of the script itself: those that it starts for srun have it as a parent.
        return (
            own
            and process.name() in ("bash", "slurm_script")
            and not (parent is not None and parent.environ().get(MARK) == scene)
        )
    except psutil.Error:
        return False
