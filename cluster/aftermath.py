"""After an attempt: note an end that nothing in the process could note, and requeue.

``python -m cluster.aftermath RUN STAGE INDEX STATUS`` is the exit trap of the batch script. It is
the only place that asks Slurm to requeue: one requeue a member, however many processes it had.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import failures
from cluster.cause import STATE_CAUSES, Cause, JobFacts
from cluster.memory import hostmemory, oomkill
from cluster.records.ledger import here
from cluster.records.member import Member
from cluster.scheduler import sacct, slurm
from cluster.scheduler.patience import Patience
from cluster.stage import RunError, Stage, wants_another_attempt

#: A controller that restarts is waited for. Where the job is being ended, KillWait ends that too.
PATIENCE = Patience(tries=6, first=1.0, longest=8.0)


def main(arguments: list[str]) -> int:
    """Settle the attempt of the job that is ending, and requeue it where it should run again."""
    run, stage_name, index, status = arguments
    stage = Stage.load(Path(run), stage_name)
    member = stage.member(int(index) + int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)))
    job = slurm.own_job_id()
    if member.ledger.superseded(job):
        return int(status)  # what is open in the ledger is another job's
    if _is_overtaken(member):
        print(f"{member.name}: a newer attempt has started; this end is not noted", file=sys.stderr)
        return int(status)
    facts = _patiently_asked(job) if job else None
    if int(status) != 0 and not _started_here(member):
        # Killed before it could open an attempt; without one it would be requeued for nothing.
        settle_lost_attempt(member)
        member.ledger.start(here())
    if job and facts and int(status) != 0 and member.ledger.open_attempt() is not None:
        facts = oomkill.examined(facts, job, int(status))
    settle(member, int(status), facts)
    if job and wants_another_attempt(member, stage.budgets):
        _bring_back(member, job, facts)
    return int(status)


def _bring_back(member: Member, job: str, facts: JobFacts | None) -> None:
    """Have the job put back into the queue, unless Slurm does so itself or someone cancelled it.

    What cannot be had here is noted, for a command on the login node to make good.
    """
    number = member.ledger.attempts()[-1].number
    try:
        if facts is None:
            # Asked all the same, it might bring a cancelled job back to life.
            raise slurm.SlurmError("nothing here tells who ended the job")
        if facts.running or facts.ended_by() is Cause.TIMEOUT:
            _requeue(member, job)
        elif facts.requeued:
            member.ledger.requeued(number)
    except slurm.SlurmError as error:
        if not isinstance(error, _MemoryRefusedError):
            member.ledger.owed(number, str(error))
        print(f"{member.name}: not requeued, 'yaoki watch' will: {error}", file=sys.stderr)


def _requeue(member: Member, job: str) -> None:
    """Ask once; where the answer is lost, look whether the requeue was carried out."""
    try:
        put_back(member, job)
    except slurm.SlurmBusyError:
        facts = _patiently_asked(job)
        if facts is None or not facts.requeued:
            raise
        _equip(member, job)


def _patiently_asked(job: str) -> JobFacts | None:
    with contextlib.suppress(slurm.SlurmBusyError):
        return PATIENCE.persist(lambda: slurm.describe(job))
    return None


def settle(
    member: Member, status: int, facts: JobFacts | None = None, log: Path | None = None
) -> None:
    """Note the end of an attempt that was killed, from the exit status of its process.

    Args:
        member: Whose attempt it is; nothing happens where its end is noted already.
        status: As a shell gives it (128 + signal) or as ``subprocess`` does (-signal).
        facts: What Slurm says of the job.
        log: Where the process wrote what it had to say.
    """
    number = member.ledger.open_attempt()
    if number is not None:
        detail = {} if log is None else {"error": f"the worker ended unheard; see {log}"}
        cause, told = failures.settled(member, number, _killed_cause(member, status, facts))
        detail |= told
        if cause is Cause.HOST_OOM:
            detail |= prescribe(member, number)
        member.ledger.end(number, cause, status=status, **detail)


def settle_lost_attempt(member: Member) -> None:
    """Note the end of an earlier attempt of which nothing was heard.

    A new attempt of the same member starts, so the earlier one is gone: killed with its node, or
    killed so fast that not even the batch script's trap ran.
    """
    number = member.ledger.open_attempt()
    if number is None:
        return
    # Of the job that it ran in: the new attempt may belong to another one.
    where = member.ledger.attempts()[-1].where.get("slurm", {})
    job = slurm.job_name(where)
    restarts = int(where.get("restart_count", 0))
    state = sacct.run_state(job, restarts) if job else None
    now = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if state is None and job == slurm.own_job_id() and now > restarts:
        # Our own requeues are noted after the end. Slurm requeues by itself when it loses a node;
        # a preempted member would have been told.
        state = "NODE_FAIL"
    note_lost(member, number, state)


def note_lost(member: Member, number: int, state: str | None) -> None:
    """Note the end of an attempt of which nothing was heard, from Slurm's word for its job."""
    cause, detail = failures.settled(member, number, STATE_CAUSES.get(state or "", Cause.KILLED))
    if not member.ledger.wanted():
        cause = Cause.CANCELLED
    if cause is Cause.HOST_OOM:
        detail |= prescribe(member, number)
    member.ledger.end(number, cause, slurm_state=state, **detail)


class _MemoryRefusedError(slurm.SlurmError):
    """Slurm did not give the memory that is the remedy; the job was cancelled."""


def put_back(member: Member, job: str) -> None:
    """Put the job back into the queue, with more memory where that is the remedy.

    Raises:
        SlurmError: Slurm refused.
    """
    slurm.requeue(job)
    _equip(member, job)


def _equip(member: Member, job: str) -> None:
    """Note the requeue, and ask for more memory where that is the remedy."""
    last = member.ledger.attempts()[-1]
    member.ledger.requeued(last.number)
    if last.cause is not Cause.HOST_OOM:
        return
    memory = hostmemory.offered_sizes(member.ledger)[-1].memory
    if memory is None or memory == hostmemory.given_memory(last.where.get("slurm", {})):
        return
    try:
        _insist(job, memory)
    except slurm.SlurmError as error:
        # It would run with the same memory again.
        text = f"out of host memory, and Slurm refused {memory} MiB: {error}"
        member.ledger.refused(last.number, text)
        slurm.cancel([job])
        raise _MemoryRefusedError(text) from error


def _insist(job: str, memory: int, tries: int = 3) -> None:
    """Ask for memory, and again where the controller was busy; a requeued job starts later."""
    for _ in range(tries - 1):
        try:
            return slurm.set_memory(job, memory)
        except slurm.SlurmError:
            time.sleep(1.0)
    return slurm.set_memory(job, memory)


def _stage_of(member: Member) -> Stage:
    try:
        return Stage.load(member.run, member.stage)
    except RunError:
        return Stage(member.run, member.stage)


def prescribe(member: Member, number: int) -> dict[str, str]:
    """Note what is tried after an attempt that exceeded its memory.

    It comes before the note of the attempt's end: who reads that the attempt has ended must find
    what is to follow.

    Returns:
        Nothing, or why nothing is tried, as ``error`` for the note of the end.
    """
    ledger, stage = member.ledger, _stage_of(member)
    sizes = hostmemory.attempt_sizes(ledger, number)
    after = hostmemory.next_sizes(
        [*hostmemory.failed_sizes(ledger).values(), sizes],
        hostmemory.offered_sizes(ledger),
        stage.host_memory,
        hostmemory.asked_memory(ledger),
        slurm.largest_node(os.environ.get("SLURM_JOB_PARTITION")),
    )
    why = "nothing is left to try"
    if after is not None and stage.budgets.allows(Cause.HOST_OOM, ledger.spent()):
        ledger.remedy(number, after.memory, after.microbatch)
        return {}
    if after is not None:
        why = "its retry budget is used up"
    job = slurm.own_job_id()
    peak = sacct.peak_memory(job) if job else None
    return {"error": hostmemory.verdict(sizes, stage.host_memory, why, peak)}


def _started_here(member: Member) -> bool:
    """Whether the last attempt is one of this run of the job."""
    return [_run_of(here())] == [_run_of(a.where) for a in member.ledger.attempts()[-1:]]


def _is_overtaken(member: Member) -> bool:
    """Whether an attempt of another run has started since ours.

    The batch script of a node that was cut off comes to its end when the member runs elsewhere.
    """
    own, runs = _run_of(here()), [_run_of(a.where) for a in member.ledger.attempts()]
    later = bool(runs) and runs[-1][0] == own[0] and runs[-1][1] > own[1]
    return later or (own in runs and runs[-1] != own)


def _run_of(where: Mapping[str, Any]) -> tuple[str | None, int]:
    """The job that an attempt belongs to, and how often Slurm had restarted it."""
    slurms = where.get("slurm", {})
    return slurms.get("job_id"), int(slurms.get("restart_count", 0))


def _killed_cause(member: Member, status: int, facts: JobFacts | None) -> Cause:
    if not member.ledger.wanted():
        return Cause.CANCELLED
    if facts is not None and facts.out_of_memory:
        return Cause.HOST_OOM
    ended_by = facts.ended_by() if facts is not None else None
    if ended_by is not None:
        return ended_by
    number = -status if status < 0 else status - 128
    return Cause.KILLED if number in {s.value for s in signal.Signals} else Cause.ERROR


if __name__ == "__main__":
    # Slurm ends what is left of a job that it requeues; the notes and the memory come after that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
