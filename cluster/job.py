"""A submitted member, as the process that submitted it sees it."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, cast

from cluster.calls import Outcome, RemoteError
from cluster.cause import Cause
from cluster.local import ask_to_leave
from cluster.records.history import Reading
from cluster.records.member import Member
from cluster.scheduler import slurm
from cluster.stage import Stage, goes_on, verdict
from cluster.watching import Watch

#: Jobs of a run ask Slurm together.
_watch_of = cache(Watch)


class MemberFailedError(Exception):
    """A member ended without a result, and no exception of its own tells why."""


class RobustJob:
    """A submitted member: what submitit calls a job.

    Args:
        stage: The stage and its rules.
        index: The member's global index.
        abandoned: Tells whether what would start the member again is gone.
    """

    def __init__(
        self, stage: Stage, index: int, abandoned: Callable[[], bool] = lambda: False
    ) -> None:
        self.stage = stage
        self.member: Member = stage.member(index)
        self._abandoned = abandoned

    @property
    def job_id(self) -> str:
        """Slurm's id of the array element, or the member's name on the other backends."""
        return self.member.ledger.last_job_id() or self.member.name

    def done(self) -> bool:
        """Whether the member has ended for good.

        On Slurm this also looks, now and then, after members whose job has ended unheard, and
        starts them again: see :mod:`cluster.watching`.
        """
        if self._abandoned() or self._has_ended():
            return True
        if self.member.ledger.last_job_id() is None:
            return False
        _watch_of(self.stage.run).look_now_and_then()
        return self._has_ended()

    def _has_ended(self) -> bool:
        # One look: an attempt that starts between two would make the one before seem the last.
        ledger = Reading(self.member.ledger.events())
        if not ledger.wanted():
            return ledger.open_attempt() is None
        attempts = ledger.attempts()
        if not attempts or attempts[-1].cause is None:
            return False
        if ledger.untouched() and not ledger.finished():
            return False
        return not goes_on(ledger, self.stage.budgets)

    def wait(self, poll_seconds: float = 0.2) -> None:
        """Block until the member has ended for good."""
        while not self.done():
            time.sleep(poll_seconds)

    def result(self) -> Any:
        """Wait for the member and return what its function returned.

        Raises:
            Exception: What the function raised, with its traceback in a note.
            MemberFailedError: It was cancelled, or killed until its budget was used up.
        """
        error = self.exception()
        if error is not None:
            raise error
        return cast(Outcome, Outcome.load(self.member)).value

    def exception(self) -> BaseException | None:
        """Wait for the member and return what it raised, or None where it finished."""
        self.wait()
        attempts = self.member.ledger.attempts()
        outcome = Outcome.load(self.member)
        if outcome is not None and attempts and outcome.attempt == attempts[-1].number:
            return _noted(outcome)
        cause = attempts[-1].cause if attempts else Cause.CANCELLED
        told = [str(dict(attempts[-1].detail))] if attempts and attempts[-1].detail else []
        spent = verdict(self.member, self.stage.budgets)
        why = "; ".join([*told, *([spent] if spent else [])])
        return MemberFailedError(
            f"{self.member.name} ended without a result: {cause}, after {len(attempts)} attempts"
            f"{f' ({why})' if why else ''}. See {self.member.logs}"
        )

    def cancel(self) -> None:
        """Give the member up: it saves if it runs, and is not started again."""
        self.member.ledger.cancel()
        job_id = self.member.ledger.last_job_id()
        if job_id is not None:
            slurm.cancel([job_id])
        else:
            ask_to_leave(self.member)

    def stdout(self) -> str:
        """What all attempts printed, oldest first."""
        return "".join(
            path.read_text() for path in sorted(self.member.logs.glob("[0-9][0-9][0-9][0-9].log"))
        )


def results(jobs: Iterable[RobustJob]) -> Iterator[tuple[RobustJob, Any | BaseException]]:
    """Each job with what it returned or raised, as many as there are, none hiding another."""
    for job in jobs:
        error = job.exception()
        yield job, job.result() if error is None else error


def _noted(outcome: Outcome) -> BaseException | None:
    if outcome.error is not None and not isinstance(outcome.error, RemoteError):
        outcome.error.add_note(f"raised in attempt {outcome.attempt}:\n{outcome.traceback}")
    return outcome.error
