"""Dealing faults out to members of any contender, with the means of Slurm and of the kernel."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.faults import disk, scene
from benchmarks.faults.schedule import Kind
from cluster.scheduler import slurm
from cluster.scheduler.patience import PATIENCE
from cluster.slurmbox import SlurmBox

#: Seconds after which a time limit strikes: Slurm looks every 30 s, and USR2 is to come before.
LIMIT_AHEAD = 45

#: How long a member may go on after a fault until that counts as being proof against it, seconds.
PATIENCE_FOR: Mapping[Kind, float] = {Kind.TIMEOUT: 110.0, Kind.PREEMPTION: 60.0}
PATIENCE_ELSE = 12.0
#: After so many more steps that is certain sooner: these act within the step, or not at all.
STEPS_FOR: Mapping[Kind, int] = {Kind.CONTROLLER: 1, Kind.DEVICE_OOM: 3, Kind.TERM: 5}


@dataclass(frozen=True)
class Target:
    """A member's process at work.

    Attributes:
        process: The process that takes the steps.
        scene: The member's scene.
        disk: Where its checkpoints are.
    """

    process: psutil.Process
    scene: scene.Scene
    disk: Path

    @property
    def job(self) -> str:
        """As scontrol takes it: by its plain number an element may stand for the whole array."""
        environment = self.process.environ()
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"

    @property
    def node(self) -> str:
        return self.process.environ()["SLURMD_NODENAME"]


class Dealer:
    """Deals faults on one box. What touches the box as a whole comes one at a time."""

    def __init__(self, box: SlurmBox) -> None:
        self.box = box
        self._lock = threading.Lock()
        self._ways: Mapping[Kind, Callable[[Target], object]] = {
            Kind.PREEMPTION: self._preempt,
            Kind.TIMEOUT: self._shorten,
            Kind.NODE_DOWN: self._lose_node,
            Kind.CONTROLLER: self._restart_controller,
            Kind.USR2: lambda target: target.process.send_signal(signal.SIGUSR2),
            Kind.TERM: lambda target: target.process.terminate(),
            Kind.KILL: lambda target: target.process.kill(),
            Kind.KILL_SHELL: _kill_shell,
            Kind.HOST_OOM: lambda target: target.scene.order(scene.HOST_OOM),
            Kind.DEVICE_OOM: lambda target: target.scene.order(scene.DEVICE_OOM),
            Kind.DISK_FULL: lambda target: disk.fill(target.disk),
            Kind.TORN: self._tear,
            Kind.SCANCEL: lambda target: slurm.cancel([target.job]),
        }

    def deal(self, kind: Kind, target: Target) -> None:
        """Let a fault befall a member.

        Raises:
            psutil.NoSuchProcess: The member has gone before.
            SlurmError: Slurm refused, most likely because the job has ended before.
        """
        self._ways[kind](target)

    def relieve(self, kind: Kind, target: Target) -> None:
        """Take away what would go on hurting."""
        if kind is Kind.DISK_FULL:
            disk.clear(target.disk)

    def restore_limit(self, job: str, minutes: int) -> None:
        """Give a job its time limit back; a requeue does not."""
        with suppress(slurm.SlurmError):  # it has ended
            _ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def _preempt(self, target: Target) -> None:
        options = ["--partition=urgent", "--exclusive", "--mem=100", "--time=2"]
        place = ["--output=/dev/null", f"--nodelist={target.node}"]
        _ask("sbatch", *options, *place, "--wrap=sleep 1")

    def _shorten(self, target: Target) -> None:
        end = datetime.fromtimestamp(time.time() + LIMIT_AHEAD)
        _ask("scontrol", "update", f"JobId={target.job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")

    def _restart_controller(self, _: Target) -> None:
        with self._lock:
            self.box.restart_controller(timeout=120.0)

    def _lose_node(self, target: Target) -> None:
        node = target.node
        with self._lock:
            self.box.kill_node(node)
            time.sleep(1.0)  # down for a moment, as seen by Slurm
            self.box.restore_node(node, timeout=120.0)

    def _tear(self, target: Target) -> None:
        with self._lock:
            # Stopped, so that no save comes between the tearing and the end.
            target.process.suspend()
            newest = disk.newest_checkpoint(target.disk)
            if newest is not None:
                disk.tear(newest)
        self._lose_node(target)


def _kill_shell(target: Target) -> None:
    job = target.process.environ()["SLURM_JOB_ID"]
    for process in psutil.process_iter(["cmdline"]):
        if any(part.endswith("/slurm_script") for part in process.info["cmdline"] or []):
            with suppress(psutil.Error):
                if process.environ().get("SLURM_JOB_ID") == job:
                    process.kill()


def _ask(*command: str) -> str:
    return PATIENCE.persist(lambda: slurm.run(command))
