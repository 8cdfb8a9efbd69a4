"""Slurm's controller as a model in memory, in the place of ``cluster.scheduler.slurm.run``.

It carries one job at a time a member, of one element. What befalls a job is told by the methods
named after it; what the commands can do, and from where, by its switches.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.scheduler.slurm import SlurmBusyError, SlurmError

_BUSY = SlurmBusyError("'scontrol' exited 1: Unable to contact slurm controller")
_MISSING = SlurmError("'scontrol' is not installed here")
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@dataclass
class Job:
    """One job.

    Attributes:
        name: Array and element, ``100_0``.
        state: Slurm's state of it.
        reason: Slurm's reason.
        restarts: How often it was started again.
        comment: Its comment.
        step_code: ``DerivedExitCode``.
        wanted_back: Whether it goes back into the queue when it has come to its end.
        known: Whether the controller still knows it.
        past: What its earlier runs came to.
    """

    name: str
    comment: str = ""
    state: str = "PENDING"
    reason: str = "None"
    restarts: int = 0
    step_code: str = "0:0"
    wanted_back: bool = False
    known: bool = True
    past: list[str] = field(default_factory=list)


@dataclass
class Controller:
    """The jobs and the commands.

    Attributes:
        on_node: Whether the commands are given on a node.
        node_has: Commands that there are on nodes.
        refuses: What every requeue is refused with, if at all.
        loses: Whether the next requeue is carried out and its answer lost.
        busy: How many of the next commands find it busy.
        accounting: Whether sacct answers.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    on_node: bool = False
    node_has: tuple[str, ...] = ("scontrol", "squeue", "sacct", "sinfo")
    refuses: bool = False
    loses: bool = False
    busy: int = 0
    accounting: bool = True
    accepted: list[str] = field(default_factory=list)
    by_itself: int = 0

    def run(self, command: Sequence[str], timeout: float = 60.0) -> str:
        """Answer a command as the real ones do."""
        if self.on_node and command[0] not in self.node_has:
            raise _MISSING
        if self.busy > 0:
            self.busy -= 1
            raise _BUSY
        options = dict(re.findall(r"--(\w+)=(\S*)", " ".join(command)))
        answer: str = getattr(self, f"_{command[0]}")(list(command[1:]), options)
        return answer

    def sent(self, comment: str = "") -> Job:
        """A new job in the queue."""
        job = Job(f"{100 + len(self.jobs)}_0", comment)
        self.jobs[job.name] = job
        return job

    def start(self, job: Job) -> None:
        """The job starts to run."""
        job.state, job.reason, job.wanted_back = "RUNNING", "None", False

    def ends(self, job: Job, reason: str = "None", back: bool = False) -> None:
        """Something ends the job, and Slurm puts it back by itself where ``back`` says so."""
        job.state, job.reason = "COMPLETING", reason
        if back:
            self._put_back(job)
            self.by_itself += 1

    def over(self, job: Job, state: str) -> None:
        """The job has come to its end, in a state that holds unless it is wanted back."""
        job.past.append(state)
        job.state = "PENDING" if job.wanted_back else state
        job.wanted_back = False

    def _put_back(self, job: Job) -> None:
        job.wanted_back, job.restarts = True, job.restarts + 1

    def _job(self, name: str) -> Job:
        job = self.jobs.get(name)
        if job is None or not job.known:
            raise SlurmError("slurm_load_jobs error: Invalid job id specified")
        return job

    def _scontrol(self, arguments: list[str], options: dict[str, str]) -> str:
        if arguments[0] == "show":
            job = self._job(arguments[-1])
            later = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 86_400))
            return (
                f"JobId=7 JobName=a UserId=ada(1) JobState={job.state} Reason={job.reason} "
                f"Restarts={job.restarts} DerivedExitCode={job.step_code} EndTime={later}"
            )
        job = self._job(arguments[-1])
        if self.refuses:
            raise SlurmError("Requested operation is presently disabled")
        if job.state == "PENDING":
            raise SlurmError("Job is pending execution")
        assert not job.wanted_back, "put back twice"
        self.accepted.append(job.name)
        self._put_back(job)
        if job.state in _OVER:
            job.state, job.wanted_back = "PENDING", False
        if self.loses:
            self.loses = False
            raise _BUSY
        return ""

    def _squeue(self, arguments: list[str], options: dict[str, str]) -> str:
        known = [job for job in self.jobs.values() if job.known]
        if options.get("format") == "%F|%k":
            return "\n".join(f"{job.name.split('_')[0]}|{job.comment}" for job in known)
        wanted = options["jobs"].split(",")
        known = [j for j in known if j.name in wanted or j.name.split("_")[0] in wanted]
        if "Format" in options:
            fields = [(j.state, j.reason, "N/A", "N/A", str(j.restarts)) for j in known]
            return "\n".join("".join(f"{text:<60}" for text in row) for row in fields)
        return "\n".join(f"{job.name}|{job.state}" for job in known)

    def _sacct(self, arguments: list[str], options: dict[str, str]) -> str:
        if not self.accounting:
            raise SlurmError("Slurm accounting storage is disabled")
        if "jobs" not in options:
            return ""
        rows = []
        for name in (name for name in options["jobs"].split(",") if name in self.jobs):
            job = self.jobs[name]
            states = [*job.past, *([] if job.state in _OVER else [job.state])]
            for state in states:
                rows += [f"{name}|{state}", f"{name}.0|FAILED"]
        return "\n".join(rows)

    def _sinfo(self, arguments: list[str], options: dict[str, str]) -> str:
        return "1000"

    def _scancel(self, arguments: list[str], options: dict[str, str]) -> str:
        for name in arguments:
            if self.jobs[name].state == "PENDING":
                self.over(self.jobs[name], "CANCELLED")
        return ""

    def _sbatch(self, arguments: list[str], options: dict[str, str]) -> str:
        assert "#SBATCH --array=0" in Path(arguments[-1]).read_text()
        job = self.sent(options.get("comment", ""))
        self.accepted.append(job.name)
        return job.name.split("_")[0]
