"""One attempt from its start to the note of its end, the same on every backend."""

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.aftermath import prescribe, settle_lost_attempt
from cluster.attempt import Attempt, Interrupted
from cluster.calls import Call, Outcome, text_of
from cluster.cause import Cause, stop_cause
from cluster.memory import oomkill
from cluster.memory.refusal import DeviceOutOfMemoryError, is_out_of_memory
from cluster.records.fence import Superseded
from cluster.records.ledger import here
from cluster.records.member import Member
from cluster.scheduler import slurm
from cluster.stage import Stage, over_budget, wants_another_attempt
from cluster.stopping import shielding, signals

#: Exit status of an attempt that ended before its member was done (EX_TEMPFAIL of sysexits.h).
UNFINISHED = 75


def execute(stage: Stage, index: int, stop: signals.StopFlag, redirect: bool) -> int:
    """Run one attempt and note its end.

    Args:
        stage: The stage and its rules.
        index: The member's global index.
        stop: The flag that signals set.
        redirect: Send this process's output, children's included, to the attempt's log.

    Returns:
        0 if nothing is left to do here, 75 if the member should be started again, 1 if it failed.
    """
    member = stage.member(index)
    number, status = admit(stage, member, here(), redirect)
    if number is None:
        return status
    return run(stage, Attempt(member, number, stop, **rules_of_attempts(stage)), stop)


def admit(
    stage: Stage, member: Member, where: Mapping[str, Any], redirect: bool
) -> tuple[int | None, int]:
    """Note that an attempt starts, unless the member is done or may not run any more.

    Returns:
        The number of the attempt, or None and the exit status.
    """
    if member.ledger.superseded(slurm.own_job_id()):
        return None, 0
    settle_lost_attempt(member)
    if member.ledger.finished() or not member.ledger.wanted():
        return None, 0
    number = member.ledger.start(where)
    if redirect:
        redirect_output(member.logs / f"{number:04d}.log")
    exhausted = over_budget(member, stage.budgets)
    if not exhausted:
        return number, 0
    causes = ", ".join(exhausted)
    print(f"{member.name}: the retry budget for {causes} is used up", file=sys.stderr)
    member.ledger.end(number, exhausted[0], error=f"retry budget used up: {causes}")
    return None, 1


def rules_of_attempts(stage: Stage) -> dict[str, Any]:
    """What a stage's rules say of each attempt."""
    names = ("checkpoint_seconds", "keep", "keep_bytes", "signal_delay")
    return {name: getattr(stage, name) for name in names}


def run(stage: Stage, attempt: Attempt, stop: signals.StopFlag) -> int:
    """Run an attempt that has started, and note its end.

    Returns:
        As :func:`execute`.
    """
    try:
        return _attempt(stage, attempt, stop)
    except Superseded as newer:
        print(f"{attempt.member.name}: {newer}", file=sys.stderr, flush=True)
        return 0


def _attempt(stage: Stage, attempt: Attempt, stop: signals.StopFlag) -> int:
    member, number = attempt.member, attempt.number
    try:
        with attempt:
            value = invoke(Call.load(member), member, attempt)
    except Interrupted:
        cause = _cause_of_stop(stage, member, stop)
        print(f"{member.name}: leaving after step {attempt.last_step}: {cause}", flush=True)
        member.ledger.end(number, cause, step=attempt.last_step, signal=stop.signum)
    except Exception as error:
        outcome = Outcome.of_error(number, error)
        print(outcome.traceback, file=sys.stderr, flush=True)
        outcome.save(member)
        cause = cause_of_error(stage, member, stop, error)
        detail = {"error": text_of(error)[:2000]}
        if cause is Cause.HOST_OOM:
            detail |= prescribe(member, number)
        member.ledger.end(number, cause, step=attempt.last_step, **detail)
    else:
        Outcome(number, value).save(member)
        member.ledger.end(number, Cause.FINISHED, step=attempt.last_step)
        return 0
    return UNFINISHED if wants_another_attempt(member, stage.budgets) else 1


def invoke(call: Call, member: Member, attempt: Attempt) -> object:
    """Call a member's function, with ``member`` and ``attempt`` where it wants them."""
    function = call.resolve()
    offered = {"member": member, "attempt": attempt}
    taken = _open_parameters(function, call) & offered.keys()
    kwargs = dict(call.kwargs) | {name: offered[name] for name in taken}
    return function(*call.args, **kwargs)


def _open_parameters(function: Callable[..., Any], call: Call) -> set[str]:
    """The parameters that the call itself gives no value to; a ``member`` may be the user's own."""
    try:
        signature = inspect.signature(function)
        given = signature.bind_partial(*call.args, **call.kwargs).arguments
    except (ValueError, TypeError):  # some builtins have no signature; others tell when called
        return set()
    return signature.parameters.keys() - given.keys()


def _cause_of_stop(stage: Stage, member: Member, stop: signals.StopFlag) -> Cause:
    if not member.ledger.wanted():
        return Cause.CANCELLED
    job = slurm.own_job_id()
    with shielding.shielded():  # a second TERM may come, and what scontrol knows decides
        facts = slurm.own_facts(job) if job else None
    assert stop.signum is not None
    assert stop.received_at is not None
    return stop_cause(stop.signum, stop.received_at, facts, stage.signal_delay)


def cause_of_error(stage: Stage, member: Member, stop: signals.StopFlag, error: Exception) -> Cause:
    """Decide why an attempt ends that has raised."""
    # The stop reached the children too: an error after it (a data loader that died) is a
    # consequence, and the member is well from its last checkpoint.
    if stop:
        return _cause_of_stop(stage, member, stop)
    # Where not even one sample fits, trying again is no use.
    if is_out_of_memory(error) and not isinstance(error, DeviceOutOfMemoryError):
        return Cause.DEVICE_OOM
    return Cause.HOST_OOM if oomkill.killed_children() else Cause.ERROR


def redirect_output(log: Path) -> None:
    """Send what this process and its children print from now on to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
