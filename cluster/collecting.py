"""What came of an array: what is there, what failed, what is missing and why; and what to retry."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.job import MemberFailedError, RobustJob
from cluster.status import OPEN, State, run_status


@dataclass(frozen=True)
class Collected:
    """What there is of an array; each member stands in one of the three, by its global index.

    Attributes:
        ok: What those that finished returned.
        failed: What those raised that ended in an exception of their own.
        missing: Why there is nothing of the others: they run, wait, were cancelled or killed.
    """

    ok: Mapping[int, Any]
    failed: Mapping[int, BaseException]
    missing: Mapping[int, str]


def collect(jobs: Iterable[RobustJob]) -> Collected:
    """Take what there is, without waiting for what there is not.

    It reads the run directory alone, so it may be called from another process, also in a job
    that Slurm starts after the end of the others (``RobustExecutor.after``).
    """
    ok: dict[int, Any] = {}
    failed: dict[int, BaseException] = {}
    missing: dict[int, str] = {}
    for job in jobs:
        index = job.member.index
        ended = job.done() and job.member.ledger.attempt_count() > 0
        error = job.exception() if ended else MemberFailedError(_whereabouts(job))
        if error is None:
            ok[index] = job.result()
        elif isinstance(error, MemberFailedError):
            missing[index] = str(error)
        else:
            failed[index] = error
    return Collected(ok, failed, missing)


def unfinished(run: Path, stage: str, launched: bool = False) -> list[int]:
    """The members of a stage that have not finished and that nothing works on now.

    Args:
        run: The run directory.
        stage: The stage's name.
        launched: Whether a launcher is at work on this machine, for which members may wait.

    Raises:
        SlurmError: Members are on Slurm, and Slurm does not answer.
    """
    found = []
    for member in run_status(run):
        # What waits on this machine, for a launcher that is gone, waits for ever.
        waits = member.state in (State.QUEUED, State.WAITING) and member.job_id is None
        at_work = member.state in OPEN and (launched or not waits)
        if member.stage == stage and member.state is not State.FINISHED and not at_work:
            found.append(member.index)
    return found


def retry_tag(run: Path, stage: str) -> str:
    """What tells the scripts of the next submission of a stage from those before it."""
    times = len({path.stem for path in (run / "scripts").glob(f"{stage}*-000000.sh")})
    return f"-retry-{times}" if times else ""


def _whereabouts(job: RobustJob) -> str:
    attempts = job.member.ledger.attempts()
    if not attempts:
        cancelled = any(event["event"] == "cancel" for event in job.member.ledger.events())
        why = ", and was cancelled" if cancelled else ""
        return f"{job.member.name} has not started{why}"
    last = attempts[-1]
    if job.member.ledger.untouched() or last.cause is not None:
        return f"{job.member.name} waits to be started again; its last end was: {last.cause}"
    host = last.where.get("host", "an unknown host")
    return f"{job.member.name} runs on {host}, or was lost unheard, in attempt {last.number}"
