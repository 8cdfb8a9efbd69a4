"""What the events of a member's ledger add up to: attempts, budgets spent, whether it is wanted."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.cause import Cause


@dataclass(frozen=True)
class AttemptRecord:
    """One execution of a member, as the ledger tells it.

    Attributes:
        number: 1 for the first attempt of the member.
        started: Seconds since the epoch.
        where: Host, process and Slurm ids.
        ended: Seconds since the epoch, or None while it runs or where nothing noted its end.
        cause: Why it ended, or None likewise.
        detail: The step reached, an error's text, an exit status.
    """

    number: int
    started: float
    where: Mapping[str, Any]
    ended: float | None = None
    cause: Cause | None = None
    detail: Mapping[str, Any] | None = None


class History(ABC):
    """Questions that the events of one member answer."""

    @abstractmethod
    def events(self) -> Sequence[dict[str, Any]]:
        """All events, oldest first."""

    def remedied(self, number: int) -> bool:
        """Whether there is something to try after attempt ``number``."""
        events = [e["event"] for e in self.events() if e.get("attempt") == number]
        return "remedy" in events and "refused" not in events

    def finished(self) -> bool:
        """Whether the last attempt finished the member, and it was not reopened since."""
        marks = [e for e in self.events() if e["event"] in ("start", "end", "reopen")]
        return bool(marks) and marks[-1].get("cause") == Cause.FINISHED

    def attempts(self) -> list[AttemptRecord]:
        """All attempts, oldest first."""
        records: dict[int, AttemptRecord] = {}
        for event in self.events():
            number = event.get("attempt")
            if event["event"] == "start" and isinstance(number, int):
                if number in records:
                    continue  # of one that came second, and took the next number
                records[number] = AttemptRecord(number, event["time"], event["where"])
            elif event["event"] == "end" and number in records:
                records[number] = _ended(records[number], event)
            elif event["event"] == "refused" and number in records:
                detail = {**(records[number].detail or {}), "error": event["error"]}
                records[number] = replace(records[number], detail=detail)
        return list(records.values())

    def attempt_count(self) -> int:
        """How many attempts have started."""
        starts = (event for event in self.events() if event["event"] == "start")
        return max((event["attempt"] for event in starts), default=0)

    def open_attempt(self) -> int | None:
        """The number of the last attempt if its end has not been noted."""
        attempts = self.attempts()
        return attempts[-1].number if attempts and attempts[-1].cause is None else None

    def spent(self) -> Counter[Cause]:
        """Starts that each cause has cost since the last submission.

        Counted at the start that follows an end, so only a requeue that came to pass is charged.
        An attempt without an end was killed before anything could note it.
        """
        spent: Counter[Cause] = Counter()
        last: Cause | None = None
        for event in self.events():
            match event["event"]:
                case "queued":
                    spent, last = Counter(), None
                case "start":
                    if last is not None:
                        spent[last] += 1
                    last = Cause.KILLED
                case "end" if last is not None:  # else of an attempt before the submission
                    last = Cause(event["cause"])
        return spent

    def wanted(self) -> bool:
        """Whether the member was queued, and not cancelled or withdrawn since."""
        return self._last("queued", "cancel", "withdrawn") == "queued"

    def untouched(self) -> bool:
        """Whether no attempt has started since the member was last queued."""
        return self._last("queued", "start") == "queued"

    def last_job_id(self) -> str | None:
        """The Slurm id of the last submission, ``None`` for a local one."""
        found: str | None = None
        for event in self.events():
            if event["event"] == "queued":
                found = None
            elif event["event"] == "sent":
                found = event["job_id"]
        return found

    def was_requeued(self, number: int) -> bool:
        """Whether the member was in the queue again after attempt ``number``."""
        events = [e["event"] for e in self.events() if e.get("attempt") == number]
        return "requeued" in events

    def superseded(self, job_id: str | None) -> bool:
        """Whether the member was sent again, as another job than this one."""
        marks = [e for e in self.events() if e["event"] in ("queued", "again", "sent")]
        newest = marks[-1].get("job_id") if marks else None
        return job_id is not None and newest is not None and newest != job_id

    def script(self) -> str | None:
        """The file name of the script that carried the member last, if it is known."""
        names = [e.get("script") for e in self.events() if e["event"] == "sent"]
        return (names[-1] or None) if names else None

    def _last(self, *kinds: str) -> str | None:
        found = [event["event"] for event in self.events() if event["event"] in kinds]
        return found[-1] if found else None


@dataclass(frozen=True)
class Reading(History):
    """A ledger as it stood when it was read; it answers any number of questions.

    Args:
        lines: Its events, oldest first.
    """

    lines: Sequence[dict[str, Any]]

    def events(self) -> Sequence[dict[str, Any]]:
        """All events, oldest first."""
        return self.lines


def _ended(record: AttemptRecord, event: Mapping[str, Any]) -> AttemptRecord:
    known = ("event", "time", "attempt", "cause")
    detail = {key: value for key, value in event.items() if key not in known}
    return AttemptRecord(
        record.number, record.started, record.where, event["time"], Cause(event["cause"]), detail
    )
