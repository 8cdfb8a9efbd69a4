"""Whether the kernel killed a member for its memory, or someone sent it SIGKILL.

Both leave a process that could say nothing. What Slurm's commands and the cgroup of the job say
differs from case to case; docs/memory.md has the table.
"""

import os
import re
import time
from dataclasses import replace
from pathlib import Path

from cluster.cause import JobFacts
from cluster.scheduler import sacct, slurm

#: How long the exit trap waits until Slurm has heard how the step ended, seconds.
PATIENCE = 10.0

_CGROUPS = Path("/sys/fs/cgroup")


def examined(facts: JobFacts, job: str, status: int, patience: float = PATIENCE) -> JobFacts:
    """The facts of a job whose step was killed, with the last word on ``out_of_memory``.

    Args:
        facts: What Slurm says at once. The end of the step may not have reached it yet, and
            ``DerivedExitCode`` is the largest of all runs of the job: after a requeue it may
            speak of an earlier one.
        job: The job's id.
        status: The exit status of srun.
        patience: How long to wait for Slurm to know, seconds.
    """
    if not facts.running:
        # Someone ends the job: there is no time to wait, and an earlier run must not be blamed.
        return replace(facts, out_of_memory=facts.out_of_memory and not _of_earlier_run(facts))
    known = cgroup_verdict(_job_cgroup(), int(os.environ.get("SLURM_JOB_NUM_NODES", 1)))
    if known is None and facts.step_code and not _of_earlier_run(facts):
        facts = _heard(facts, job, patience)
        known = facts.out_of_memory
    if known is None and facts.step_code:
        known = _accounted(job, patience)
    if known is None:
        # srun ends with 128 + 9 after a SIGKILL, and with 1 after a kill for memory.
        known = facts.out_of_memory and not (_of_earlier_run(facts) and status == 137)
    return replace(facts, out_of_memory=known)


def killed_children() -> bool:
    """Whether the kernel has killed a process beside this one, in its step, for its memory.

    A data loader's worker for one: the error that follows is a consequence.
    """
    if slurm.own_job_id() is None:
        return False  # the counter may be the whole machine's
    own = _own_cgroup()
    if own is None:
        return False
    # Version 2 counts there, version 1 in the other file.
    counts = _numbers(own / "memory.events") | _numbers(own / "memory.oom_control")
    return counts.get("oom_kill", 0) > 0


def cgroup_verdict(job: Path | None, nodes: int = 1) -> bool | None:
    """What the memory cgroup of a job says of kills for memory in it; None where it cannot tell.

    Args:
        job: The directory of the job's cgroup, which each run of a job gets anew.
        nodes: Nodes of the job; of those but this one the cgroup says nothing.
    """
    killed = None if job is None else _killed_on_this_node(job)
    return killed if killed or nodes == 1 else None


def _killed_on_this_node(job: Path) -> bool | None:
    events = _numbers(job / "memory.events")  # version 2: with the cgroups below
    if "oom_kill" in events:
        return events["oom_kill"] > 0
    # Version 1 counts kills where they happen, in the step's cgroup, which is gone by now.
    peak, limit = (_number(job / f"memory.{n}_in_bytes") for n in ("max_usage", "limit"))
    whole = _number(job / "memory.use_hierarchy") == 1 and peak is not None and limit is not None
    # At the limit it can tell nothing: pages of files count too, and do not kill.
    return False if whole and (peak or 0) < (limit or 0) else None


def _of_earlier_run(facts: JobFacts) -> bool:
    restarted = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
    return restarted and facts.step_code != "0:0"


def _heard(facts: JobFacts, job: str, patience: float) -> JobFacts:
    """The facts once Slurm knows how the step ended."""
    until = time.monotonic() + patience
    while facts.step_code == "0:0" and facts.running and time.monotonic() < until:
        time.sleep(0.2)
        facts = slurm.job_facts(job) or facts
    return facts


def _accounted(job: str, patience: float) -> bool | None:
    """What accounting says of the step of the newest run; its rows come seconds late."""
    until = time.monotonic() + patience
    while True:
        state = sacct.step_state(job)
        if state is None:
            return None
        if state != "RUNNING":
            return state == "OUT_OF_MEMORY"
        if time.monotonic() >= until:
            return None
        time.sleep(0.5)


def _own_cgroup() -> Path | None:
    """The memory cgroup of this process, where it is one of Slurm's."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory") and re.search(r"/job_\d+(/|$)", path):
            return _CGROUPS / controllers / path.lstrip("/")
    return None


def _job_cgroup() -> Path | None:
    own = _own_cgroup()
    if own is None:
        return None
    return next(p for p in (own, *own.parents) if re.fullmatch(r"job_\d+", p.name))


def _numbers(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
