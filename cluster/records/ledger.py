"""The ledger: an append-only record of a member's attempts and of what was decided about them."""

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.cause import Cause
from cluster.records.files import append_line, read_lines
from cluster.records.history import AttemptRecord, History, Reading
from cluster.records.machine import birth
from cluster.records.submissions import Submission, Submissions

__all__ = ["AttemptRecord", "Ledger", "here"]

#: Key of a line: how much of the stage's submissions had been noted before it.
_AFTER = "after"


class Ledger(History):
    """The ledger of one member, ``ledger.jsonl`` in its directory.

    Lines are only ever added. What they add up to (attempts, budgets spent, state) is worked out
    by reading them, so that a process killed between two lines leaves nothing inconsistent.

    What was noted of the member's whole array is in the stage's submissions and is read with it.
    Clocks of machines differ, so times do not order the lines of two files: each line here says
    how long the other file was when it was written.

    Args:
        path: The file.
        submissions: The stage's, if the member is of one.
        index: The member's global index in it.
    """

    def __init__(self, path: Path, submissions: Submissions | None = None, index: int = 0) -> None:
        self.path = path
        self.submissions = submissions
        self.index = index

    def queued(self) -> None:
        """Note that the member is about to be submitted; this opens fresh budgets.

        It comes before the submission: the attempt that follows may start at once.
        """
        self._append("queued")

    def sent(self, job_id: str, script: str = "") -> None:
        """Note the id that Slurm gave, and the file of the script that it was given for."""
        self._append("sent", job_id=job_id, script=script)

    def requeued(self, number: int) -> None:
        """Note that the member is in the queue again after attempt ``number``."""
        self._append("requeued", attempt=number)

    def owed(self, number: int, error: str) -> None:
        """Note that attempt ``number`` should be followed by another, and who refused it."""
        self._append("owed", attempt=number, error=error)

    def again(self) -> None:
        """Note that the member is about to be sent as a new job, in the place of a requeue.

        The budgets go on. Until the id is known the job is whatever carries the member.
        """
        self._append("again")

    def withdrawn(self) -> None:
        """Note that the submission failed, and that nothing came of it."""
        self._append("withdrawn")

    def start(self, where: Mapping[str, Any]) -> int:
        """Note that an attempt starts, and return its number.

        Of two that start at the same moment, the one whose line comes first has the number, and
        the other takes the next.
        """
        claim, holder, number = uuid.uuid4().hex, "", 0
        while holder != claim:
            number = self.attempt_count() + 1
            self._append("start", attempt=number, where=dict(where), claim=claim)
            starts = (e for e in self.events() if e["event"] == "start")
            holder = next((e["claim"] for e in starts if e.get("attempt") == number), "")
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

    def cancel(self) -> None:
        """Note that the user no longer wants the member."""
        self._append("cancel")

    def reopen(self) -> None:
        """Note that the member is to run again although it has finished.

        It goes on from its last checkpoint, and so publishes once more what it had made.
        """
        self._append("reopen")

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first."""
        # Its own lines first: of what they follow nothing is then missing.
        own = self.own_lines()
        return self._joined(own, [] if self.submissions is None else self.submissions.read())

    def own_lines(self) -> list[dict[str, Any]]:
        """The lines of its own file."""
        return [record for record in read_lines(self.path) if "event" in record]

    def read(self, own: Sequence[dict[str, Any]], submissions: Sequence[Submission]) -> Reading:
        """The ledger as it stands, from its own lines and the submissions read after them."""
        return Reading(self._joined(own, submissions))

    def _joined(
        self, own: Sequence[dict[str, Any]], submissions: Sequence[Submission]
    ) -> list[dict[str, Any]]:
        noted = ((each.end, each.event(self.index)) for each in submissions)
        waiting = deque((end, event) for end, event in noted if event is not None)
        events = []
        for line in own:
            while waiting and waiting[0][0] <= line.get(_AFTER, 0):
                events.append(waiting.popleft()[1])
            events.append({key: value for key, value in line.items() if key != _AFTER})
        return [*events, *(event for _, event in waiting)]

    def _append(self, event: str, **fields: Any) -> None:
        seen = 0 if self.submissions is None else self.submissions.size()
        after = {_AFTER: seen} if seen else {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self.path, {"event": event, "time": time.time(), **after, **fields})


def here(pid: int | None = None) -> dict[str, Any]:
    """Where a process runs, by default this one.

    Host, process id and birth, and what Slurm says: its ids, and the memory it gives.
    """
    pid = os.getpid() if pid is None else pid
    ids = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "JOB_NODELIST")
    names = (*ids, "MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE", "GPUS_ON_NODE")
    slurm = {n.lower(): os.environ[f"SLURM_{n}"] for n in names if f"SLURM_{n}" in os.environ}
    return {"host": socket.gethostname(), "pid": pid, "born": birth(pid), "slurm": slurm}
