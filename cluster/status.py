"""Where every member of a run stands, from its directory and one question to Slurm."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from cluster.cause import Cause
from cluster.records.history import AttemptRecord, Reading
from cluster.records.machine import birth
from cluster.records.member import Member
from cluster.scheduler import slurm
from cluster.stage import Stage, goes_on, load_stages
from cluster.stopping.deadline import Overdue


class State(StrEnum):
    """Where a member stands."""

    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


#: States in which something is at work on a member, or about to be.
OPEN = (State.QUEUED, State.RUNNING, State.WAITING)

#: States out of which only ``retry`` brings a member.
ENDED_SHORT = (State.FAILED, State.CANCELLED, State.LOST)


@dataclass(frozen=True)
class MemberStatus:
    """Where one member stands.

    Attributes:
        stage: Its stage.
        index: Its global index.
        state: Where it stands.
        attempts: Attempts started.
        step: The last step reported, if any.
        of: How many steps there are.
        cause: Why the last ended attempt ended.
        job_id: Slurm's id of its last submission.
        detail: An error's text or what Slurm says.
    """

    stage: str
    index: int
    state: State
    attempts: int
    step: int | None
    of: int | None
    cause: Cause | None
    job_id: str | None
    detail: str


def run_status(run: Path) -> list[MemberStatus]:
    """The status of every member of a run, stage by stage.

    Raises:
        SlurmError: The run is on Slurm and Slurm does not answer.
    """
    members = [(stage, *pair) for stage in load_stages(run) for pair in stage.readings()]
    # Of those that have finished Slurm need not be asked, so it may be gone by then.
    asked = {ledger.last_job_id() for _, _, ledger in members if not ledger.finished()}
    queue = slurm.queued_states(sorted({job.split("_")[0] for job in asked if job}))
    return [_status(stage, member, ledger, queue) for stage, member, ledger in members]


def _status(
    stage: Stage, member: Member, ledger: Reading, queue: Mapping[str, str]
) -> MemberStatus:
    attempts, job_id = ledger.attempts(), ledger.last_job_id()
    slurm_state = queue.get(job_id) if job_id else None
    state = _state(stage, ledger, attempts, job_id, slurm_state)
    ended = [attempt for attempt in attempts if attempt.cause is not None]
    progress = _progress(member) if attempts else {}
    return MemberStatus(
        stage=stage.name,
        index=member.index,
        state=state,
        attempts=len(attempts),
        step=progress.get("step"),
        of=progress.get("of"),
        cause=ended[-1].cause if ended else None,
        job_id=job_id,
        detail=_detail(attempts, slurm_state, state, _late(ledger.events())),
    )


def _state(
    stage: Stage,
    ledger: Reading,
    attempts: list[AttemptRecord],
    job_id: str | None,
    slurm_state: str | None,
) -> State:
    last = attempts[-1] if attempts else None
    if ledger.finished():
        return State.FINISHED
    if _alive(last, job_id, slurm_state):
        return State.RUNNING
    if not ledger.wanted():
        cancelled = any(event["event"] == "cancel" for event in ledger.events())
        return State.CANCELLED if cancelled else State.PLANNED
    pending = slurm_state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING")
    again = not ledger.untouched() and goes_on(ledger, stage.budgets)
    if again and job_id is not None and slurm_state != "CANCELLED":
        # One whose job has ended is brought back by whoever looks next: see cluster.watching.
        return State.WAITING if pending or slurm_state == "COMPLETING" else State.LOST
    if job_id is not None and not pending:
        return _gone(last, slurm_state)
    if ledger.untouched():
        return State.QUEUED
    if last is not None and last.cause is None:
        return State.WAITING if pending else State.LOST
    return State.WAITING if again else _gone(last, None)


def _alive(last: AttemptRecord | None, job_id: str | None, slurm_state: str | None) -> bool:
    ended = last is not None and last.cause is not None
    if job_id is not None:
        # An ended attempt of a job that Slurm still tidies up after.
        tidying = slurm_state == "COMPLETING" and ended
        held = ("RUNNING", "COMPLETING", "STOPPED", "RESIZING", "SIGNALING")
        return slurm_state in held and not tidying
    if last is None or ended:
        return False
    if last.where["host"] != socket.gethostname():
        return True
    # A process id may belong to someone else by now.
    pid, born = int(last.where["pid"]), last.where.get("born")
    return pid != os.getpid() and born is not None and birth(pid) == born


def _gone(last: AttemptRecord | None, slurm_state: str | None) -> State:
    """Slurm, or the local pool, has nothing more to do with the member."""
    if slurm_state == "CANCELLED" or (last is not None and last.cause is Cause.CANCELLED):
        return State.CANCELLED
    return State.FAILED if last is not None and last.cause is not None else State.LOST


def _detail(attempts: list[AttemptRecord], slurm_state: str | None, state: State, late: str) -> str:
    if state is State.FINISHED:
        return ""
    ended = [attempt for attempt in attempts if attempt.detail]
    error = (ended[-1].detail or {}).get("error") if ended else None
    if error and state in ENDED_SHORT:
        return str(error)
    return late or (f"Slurm: {slurm_state}" if slurm_state else "")


def _late(events: Sequence[Mapping[str, Any]]) -> str:
    """The last stop that an attempt did not answer in time, if there was one."""
    late = [event for event in events if event["event"] == "overdue"]
    if not late:
        return ""
    known = {field.name: late[-1][field.name] for field in fields(Overdue)}
    return f"attempt {late[-1]['attempt']}: {Overdue(**known).brief()}"


def _progress(member: Member) -> dict[str, Any]:
    try:
        progress = json.loads(member.progress_file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}
