"""One rank's part in one attempt, from its start to the note of its end."""

import sys

from cluster import failures
from cluster.attempt import Interrupted
from cluster.calls import Call, Outcome
from cluster.distributed.attempt import TeamAttempt
from cluster.distributed.meeting import Meeting, RankLost
from cluster.distributed.place import Place, take_own_devices
from cluster.execution import (
    UNFINISHED,
    admit,
    cause_of_error,
    invoke,
    redirect_output,
    rules_of_attempts,
    run,
)
from cluster.records.fence import Superseded
from cluster.records.ledger import Ledger, here
from cluster.records.member import Member
from cluster.stage import Stage
from cluster.stopping.signals import StopFlag


def execute_rank(stage: Stage, index: int, stop: StopFlag) -> int:
    """Run this rank's part in one attempt. Rank 0 notes its end, unless another has failed.

    Args:
        stage: The stage and its rules.
        index: The member's global index.
        stop: The flag that signals to this process set.

    Returns:
        Rank 0 as :func:`cluster.execution.execute`; the others 0, or what they failed with.

    Raises:
        RuntimeError: This process is none of the stage's tasks.
    """
    place = Place.of_this_task(stage)
    take_own_devices(place)
    member = stage.member(index)
    meeting = Meeting(member.directory, place)
    part = _lead if place.rank == 0 else _follow
    return part(stage, member, meeting, stop)


class _Follower(Member):
    """A member as ranks other than 0 see it: what they note is noted by rank 0 already."""

    @property
    def ledger(self) -> Ledger:
        written = super().ledger
        return _Unwritten(written.path, written.submissions, written.index)


class _Unwritten(Ledger):
    def _append(self, event: str, **fields: object) -> None:
        pass


def _lead(stage: Stage, member: Member, meeting: Meeting, stop: StopFlag) -> int:
    where = here(meeting.place.launcher)  # if there is one, it hands signals on to every rank
    number, status = admit(stage, member, where, redirect=True)
    if number is None:
        meeting.call_off()
        return status
    attempt = _part(stage, member, number, meeting, stop)
    try:
        return run(stage, attempt, stop)
    except RankLost as loss:
        return _lost(attempt, loss)


def _follow(stage: Stage, member: Member, meeting: Meeting, stop: StopFlag) -> int:
    place = meeting.place
    try:
        number = meeting.invitation().attempt
    except RankLost as loss:
        print(f"{member.name}: {loss}", file=sys.stderr, flush=True)
        return UNFINISHED
    if number is None:
        return 0
    redirect_output(member.logs / f"{number:04d}-rank{place.rank}.log")
    follower = _Follower(member.run, member.stage, member.index)
    attempt = _part(stage, follower, number, meeting, stop)
    try:
        with attempt:
            invoke(Call.load(follower), follower, attempt)
    except Interrupted:
        print(f"{member.name}: {place} leaving after step {attempt.last_step}", flush=True)
    except Superseded as newer:
        print(f"{member.name}: {newer}", file=sys.stderr, flush=True)
    except RankLost as loss:
        return _lost(attempt, loss)
    except Exception as error:
        outcome = Outcome.of_error(number, error)
        print(outcome.traceback, file=sys.stderr, flush=True)
        cause = cause_of_error(stage, member, stop, error)
        failures.failed(member, number, place.rank, cause, outcome)
        return 1
    return 0


def _part(
    stage: Stage, member: Member, number: int, meeting: Meeting, heard: StopFlag
) -> TeamAttempt:
    rules = rules_of_attempts(stage)
    agreed = StopFlag(owner=0)  # no process's own: no signal sets it, only the ranks do
    return TeamAttempt(member, number, agreed, **rules, meeting=meeting, heard=heard)


def _lost(attempt: TeamAttempt, loss: RankLost) -> int:
    print(f"{attempt.member.name}: {loss}", file=sys.stderr, flush=True)
    failures.lost(attempt.member, attempt.number, attempt.rank, loss)
    return UNFINISHED
