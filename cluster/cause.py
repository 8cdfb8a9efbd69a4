"""Why an attempt ended, decided from facts, and how often each cause may cost another attempt."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum


class Cause(StrEnum):
    """Why an attempt ended."""

    FINISHED = "finished"
    TIMEOUT = "timeout"
    PREEMPTION = "preemption"
    NODE_FAILURE = "node_failure"
    KILLED = "killed"
    DEVICE_OOM = "device_oom"
    HOST_OOM = "host_oom"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Budgets:
    """How many times a member may be started again after each cause.

    Out of host memory is never tried again unchanged; see :mod:`cluster.memory.hostmemory`.
    A budget is spent by a start that follows an end of that cause, never by an end alone: a
    requeue that failed costs nothing. ``finished`` and ``cancelled`` never start a member again.
    """

    timeout: int = 1000
    preemption: int = 1000
    node_failure: int = 20
    killed: int = 10
    device_oom: int = 10
    host_oom: int = 6
    error: int = 0

    def __post_init__(self) -> None:
        for budget in fields(self):
            value = getattr(self, budget.name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"budget '{budget.name}': expected a whole number >= 0, found {value!r}"
                )

    def allows(self, cause: Cause, spent: Mapping[Cause, int]) -> bool:
        """Whether one more start after ``cause`` is within the budget."""
        return spent.get(cause, 0) < int(getattr(self, cause.value, 0))


#: Final states of Slurm's that tell by themselves why a job ended.
STATE_CAUSES: Mapping[str, Cause] = {
    "BOOT_FAIL": Cause.NODE_FAILURE,
    "CANCELLED": Cause.CANCELLED,
    "DEADLINE": Cause.CANCELLED,
    "NODE_FAIL": Cause.NODE_FAILURE,
    "OUT_OF_MEMORY": Cause.HOST_OOM,
    "PREEMPTED": Cause.PREEMPTION,
    "REQUEUED": Cause.PREEMPTION,  # by someone else: our own requeues are noted after the end
    "REVOKED": Cause.CANCELLED,
    "TIMEOUT": Cause.TIMEOUT,
}

#: Reasons that Slurm gives while it tidies up after a job. A batch script that was killed reads
#: JobLaunchFailure, and its steps are sent TERM as by scancel, which leaves no reason.
REASON_CAUSES: Mapping[str, Cause] = {
    "JobLaunchFailure": Cause.KILLED,
    "NodeDown": Cause.NODE_FAILURE,
    "NonZeroExitCode": Cause.KILLED,
    "RaisedSignal": Cause.KILLED,
    "SystemFailure": Cause.KILLED,
    "TimeLimit": Cause.TIMEOUT,
}


@dataclass(frozen=True)
class JobFacts:
    """What Slurm says of a job while it is being stopped.

    A job that is being ended reads ``COMPLETING`` whoever ends it; the other facts tell who.

    Attributes:
        state: Slurm's job state, e.g. ``RUNNING`` or ``COMPLETING``.
        reason: Slurm's reason, e.g. ``TimeLimit``, or ``None`` in words.
        end_time: When the time limit ends or the job ended, seconds since the epoch, if known.
        preempted: Whether Slurm has set a preemption time.
        requeued: Whether Slurm has put the job back into the queue already.
        out_of_memory: Whether a step was killed for its memory.
        step_code: The largest exit status and signal of any step, of any run of the job, e.g.
            ``0:125``; ``0:0`` also while the end of the step is on its way.
    """

    state: str
    reason: str = "None"
    end_time: float | None = None
    preempted: bool = False
    requeued: bool = False
    out_of_memory: bool = False
    step_code: str = field(default="", compare=False)

    @property
    def running(self) -> bool:
        """Whether the job goes on as far as Slurm is concerned."""
        return self.state == "RUNNING"

    def ended_by(self) -> Cause | None:
        """Who ends the job, or None while it runs."""
        if self.state in STATE_CAUSES:
            return STATE_CAUSES[self.state]
        if self.reason == "TimeLimit":
            return Cause.TIMEOUT
        if self.requeued or self.preempted:
            return Cause.PREEMPTION
        # No reason and no requeue: someone has cancelled it.
        reason = REASON_CAUSES.get(self.reason.partition(":")[0], Cause.CANCELLED)
        return reason if self.state == "COMPLETING" else None


#: Slurm checks limits once a minute and sends a ``--signal`` up to this much early, seconds.
SIGNAL_SLACK = 90.0

#: How far the clocks of a node and of the controller may be apart, seconds.
CLOCK_SLACK = 5.0

#: The state of a job of which only its own environment can be asked.
UNKNOWN = "UNKNOWN"


def stop_cause(
    signum: int, received_at: float, facts: JobFacts | None, signal_delay: float
) -> Cause:
    """Decide why a running attempt was asked to stop.

    Args:
        signum: The first stop signal seen.
        received_at: When it was seen, seconds since the epoch.
        facts: What Slurm says of the job, or None where it cannot be asked.
        signal_delay: The seconds before the limit at which USR2 was ordered.

    Returns:
        Most often ``CANCELLED``, ``PREEMPTION`` or ``TIMEOUT``. A signal that no fact explains
        (sent by hand, or by a site's own tool) counts as a preemption: the member was well and is
        wanted back.
    """
    if facts is None:
        return Cause.PREEMPTION
    ended_by = facts.ended_by()
    if ended_by is not None:
        return ended_by
    if facts.end_time is None:
        return Cause.PREEMPTION
    if signum == signal.SIGUSR2:
        notice = signal_delay + SIGNAL_SLACK
    elif facts.state == UNKNOWN:
        # The limit sends TERM when it is reached, and not before.
        notice = CLOCK_SLACK
    else:
        return Cause.PREEMPTION
    return Cause.TIMEOUT if received_at >= facts.end_time - notice else Cause.PREEMPTION
