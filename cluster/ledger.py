"""The ledger: an append-only record of a member's attempts and of what was decided about them."""

import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.cause import Cause
from cluster.files import append_line, read_lines


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


class Ledger:
    """The ledger of one member, ``ledger.jsonl`` in its directory.

    Lines are only ever added. What they add up to (attempts, budgets spent, state) is worked out
    by reading them, so that a process killed between two lines leaves nothing inconsistent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def queued(self) -> None:
        """Note that the member is about to be submitted; this opens fresh budgets.

        It comes before the submission: the attempt that follows may start at once.
        """
        self._append("queued")

    def sent(self, job_id: str) -> None:
        """Note the id that Slurm gave."""
        self._append("sent", job_id=job_id)

    def withdrawn(self) -> None:
        """Note that the submission failed, and that nothing came of it."""
        self._append("withdrawn")

    def start(self, where: Mapping[str, Any]) -> int:
        """Note that an attempt starts, and return its number."""
        number = self.attempt_count() + 1
        self._append("start", attempt=number, where=dict(where))
        return number

    def end(self, number: int, cause: Cause, **detail: Any) -> None:
        """Note why attempt ``number`` ended. A second end of the same attempt is ignored."""
        if self.open_attempt() == number:
            self._append("end", attempt=number, cause=cause.value, **detail)

    def overdue(self, number: int, **detail: Any) -> None:
        """Note that attempt ``number`` has not answered a stop and is about to be killed."""
        self._append("overdue", attempt=number, **detail)

    def microbatch(self, number: int, microbatch: int) -> None:
        """Note how many samples attempt ``number`` takes at once from now on."""
        self._append("microbatch", attempt=number, microbatch=microbatch)

    def steps(self, number: int, step: int, of: int, saved: float | None) -> None:
        """Note that attempt ``number`` begins to take steps, after ``step`` of them.

        Args:
            number: The attempt.
            step: Steps done.
            of: Steps to do.
            saved: When the checkpoint was written that it goes on from, if there is one: what
                earlier attempts did after that is done again.
        """
        self._append("steps", attempt=number, step=step, of=of, saved=saved)

    def usage(self, number: int, **used: float) -> None:
        """Note what attempt ``number`` has used; a kill leaves no time for it."""
        self._append("usage", attempt=number, **used)

    def remedy(self, number: int, memory: int | None, microbatch: int | None) -> None:
        """Note what is tried after attempt ``number``; it comes before the note of its end."""
        self._append("remedy", attempt=number, memory=memory, microbatch=microbatch)

    def refused(self, number: int, error: str) -> None:
        """Note that the remedy for attempt ``number`` could not be had."""
        self._append("refused", attempt=number, error=error)

    def remedied(self, number: int) -> bool:
        """Whether there is something to try after attempt ``number``."""
        events = [e["event"] for e in self.events() if e.get("attempt") == number]
        return "remedy" in events and "refused" not in events

    def cancel(self) -> None:
        """Note that the user no longer wants the member."""
        self._append("cancel")

    def reopen(self) -> None:
        """Note that the member is to run again although it has finished.

        It goes on from its last checkpoint, and so publishes once more what it had made.
        """
        self._append("reopen")

    def finished(self) -> bool:
        """Whether the last attempt finished the member, and it was not reopened since."""
        marks = [e for e in self.events() if e["event"] in ("start", "end", "reopen")]
        return bool(marks) and marks[-1].get("cause") == Cause.FINISHED

    def events(self) -> list[dict[str, Any]]:
        """All lines, oldest first."""
        return [record for record in read_lines(self.path) if "event" in record]

    def attempts(self) -> list[AttemptRecord]:
        """All attempts, oldest first."""
        records: dict[int, AttemptRecord] = {}
        for event in self.events():
            number = event.get("attempt")
            if event["event"] == "start" and isinstance(number, int):
                records[number] = AttemptRecord(number, event["time"], event["where"])
            elif event["event"] == "end" and number in records:
                records[number] = _ended(records[number], event)
            elif event["event"] == "refused" and number in records:
                detail = {**(records[number].detail or {}), "error": event["error"]}
                records[number] = replace(records[number], detail=detail)
        return list(records.values())

    def attempt_count(self) -> int:
        """How many attempts have started."""
        return sum(event["event"] == "start" for event in self.events())

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
        events = self.events()
        since = [n for n, event in enumerate(events) if event["event"] == "queued"]
        sent = [e["job_id"] for e in events[since[-1] :] if e["event"] == "sent"] if since else []
        return sent[-1] if sent else None

    def _last(self, *kinds: str) -> str | None:
        found = [event["event"] for event in self.events() if event["event"] in kinds]
        return found[-1] if found else None

    def _append(self, event: str, **fields: Any) -> None:
        append_line(self.path, {"event": event, "time": time.time(), **fields})


def here() -> dict[str, Any]:
    """Where this process runs: host, process id, Slurm's ids, and the memory it gives."""
    ids = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "JOB_NODELIST")
    names = (*ids, "MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE", "GPUS_ON_NODE")
    slurm = {n.lower(): os.environ[f"SLURM_{n}"] for n in names if f"SLURM_{n}" in os.environ}
    return {"host": socket.gethostname(), "pid": os.getpid(), "slurm": slurm}


def _ended(record: AttemptRecord, event: Mapping[str, Any]) -> AttemptRecord:
    known = ("event", "time", "attempt", "cause")
    detail = {key: value for key, value in event.items() if key not in known}
    return AttemptRecord(
        record.number, record.started, record.where, event["time"], Cause(event["cause"]), detail
    )
