"""Why an attempt ended, decided from facts, and how often each cause may cost another attempt."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, fields
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

    A budget is spent by a start that follows an end of that cause, never by an end alone: a
    requeue that failed costs nothing. ``finished`` and ``cancelled`` never start a member again.
    """

    timeout: int = 1000
    preemption: int = 1000
    node_failure: int = 20
    killed: int = 10
    device_oom: int = 10
    host_oom: int = 4
    error: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"budget '{field.name}': expected a whole number >= 0, found {value!r}"
                )

    def allows(self, cause: Cause, spent: Mapping[Cause, int]) -> bool:
        """Whether one more start after ``cause`` is within the budget."""
        return spent.get(cause, 0) < int(getattr(self, cause.value, 0))


@dataclass(frozen=True)
class JobFacts:
    """What Slurm says of a job while it is being stopped.

    Attributes:
        state: Slurm's job state, e.g. ``RUNNING`` or ``CANCELLED``.
        end_time: When the time limit ends, seconds since the epoch, if known.
        preempted: Whether Slurm has set a preemption time.
    """

    state: str
    end_time: float | None = None
    preempted: bool = False


#: Slurm checks limits once a minute and sends a ``--signal`` up to this much early, seconds.
SIGNAL_SLACK = 90.0


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
        ``CANCELLED``, ``PREEMPTION`` or ``TIMEOUT``. A signal that no fact explains (sent by hand,
        or by a site's own tool) counts as a preemption: the member was well and is wanted back.
    """
    if facts is None:
        return Cause.PREEMPTION
    if facts.state.startswith("CANCELLED"):
        return Cause.CANCELLED
    if facts.preempted or facts.state.startswith("PREEMPTED"):
        return Cause.PREEMPTION
    if facts.state.startswith("TIMEOUT"):
        return Cause.TIMEOUT
    if facts.state.startswith("NODE_FAIL"):
        return Cause.NODE_FAILURE
    if facts.end_time is None:
        return Cause.PREEMPTION
    notice = signal_delay + SIGNAL_SLACK if signum == signal.SIGUSR2 else 0.0
    return Cause.TIMEOUT if received_at >= facts.end_time - notice else Cause.PREEMPTION
