"""Batch scripts on their way to Slurm: each accepted once, or none of them."""

import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.records.files import write_atomic
from cluster.scheduler import slurm
from cluster.scheduler.limits import Limits, SubmitLimitError
from cluster.scheduler.patience import PATIENCE, Patience
from cluster.scheduler.slurm import SlurmBusyError, SlurmError
from cluster.stage import Stage
from cluster.submitting.submission import Script

#: Seconds between two looks at a queue that is full.
ROOM_SECONDS = 30.0


@dataclass
class Parcel:
    """One script on its way.

    sbatch can be accepted and its answer lost. So each script goes with a comment that no other
    has, on sbatch's command line: whatever carries it in Slurm's queue came of this script.

    Attributes:
        script: The script.
        mark: What its comment ends with.
        job_id: The id of its array, once that is known.
        tries: How often sbatch was to be called, so that Slurm may have it.
    """

    script: Script
    mark: str = field(default_factory=lambda: f"yaoki:{uuid.uuid4().hex}")
    job_id: str | None = None
    tries: int = 0

    def send(self, patience: Patience) -> str:
        """Submit the script, and return the id of its array.

        Raises:
            SlurmBusyError: Slurm did not come to an answer in all that time.
            SlurmError: sbatch refused it.
        """
        self.job_id = job_id = patience.persist(self._send_or_find)
        if self.tries > 1:
            # A call that was given up may have been carried out after the one that succeeded.
            doubled = [job for job in self.jobs(patience) if job != job_id]
            patience.persist(lambda: slurm.cancel(doubled))
        return job_id

    def jobs(self, patience: Patience) -> list[str]:
        """Ids of whatever has come of the script so far.

        Raises:
            SlurmError: Slurm did not answer.
        """
        known = [self.job_id] if self.job_id is not None else []
        if self.tries == len(known):
            return known
        found = patience.persist(lambda: slurm.commented(self.mark))
        return list(dict.fromkeys([*known, *found]))

    def _send_or_find(self) -> str:
        found = slurm.commented(self.mark) if self.tries else []
        self.tries += 1
        comment = f"{self.script.comment} {self.mark}".strip()
        return found[0] if found else slurm.submit(self.script.path, comment)


@dataclass
class Sender:
    """Sends the scripts of a stage.

    Args:
        stage: The stage.
        limits: What Slurm takes.
        wait_for_room: Whether to wait where it does not take all of them at once.
        patience: How long a Slurm that is busy is asked again.
        room_seconds: The time between two looks at a full queue.
    """

    stage: Stage
    limits: Limits
    wait_for_room: bool = False
    patience: Patience = PATIENCE
    room_seconds: float = ROOM_SECONDS

    def send(self, scripts: Sequence[Script]) -> list[str]:
        """Send scripts in order, and return the ids of their arrays.

        Where one of them does not arrive, those before it are cancelled, their members withdrawn
        and the files removed.

        Raises:
            SubmitLimitError: Slurm does not take so many members at once; nothing was sent.
            SlurmError: sbatch refused a script.
        """
        if not self.wait_for_room:
            self._require_room(sum(len(script.indices) for script in scripts))
        parcels: list[Parcel] = []
        ids: dict[str, str] = {}
        try:
            for script in scripts:
                if self.wait_for_room:
                    self._await_room(len(script.indices))
                ahead = script.follows
                parcels.append(Parcel(script.behind(ids[ahead.name]) if ahead else script))
                ids[script.path.name] = self._send(parcels[-1])
        except BaseException as error:
            self._take_back(parcels, error)
            raise
        return list(ids.values())

    def _send(self, parcel: Parcel) -> str:
        script, submissions = parcel.script, self.stage.submissions
        script.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(script.path, script.text.encode())
        submissions.queued(script.indices)
        job_id = parcel.send(self.patience)
        submissions.sent(script.indices, job_id, script.offset, script.path.name)
        return job_id

    def _take_back(self, parcels: Sequence[Parcel], error: BaseException) -> None:
        """Leave nothing behind of what was sent, or say what could not be taken back."""
        refused = isinstance(error, SlurmError) and not isinstance(error, SlurmBusyError)
        # What was refused at once need not be looked for.
        reached = [p for p in parcels if p.job_id or p.tries > 1 or not refused]
        try:
            jobs = [job for parcel in reached for job in parcel.jobs(self.patience)]
            self.patience.persist(lambda: slurm.cancel(jobs))
        except SlurmError as unanswered:
            marks = ", ".join(p.job_id or f"whatever has the comment {p.mark}" for p in reached)
            error.add_note(f"It may still be in the queue; cancel it: {marks} ({unanswered})")
        for parcel in parcels:
            self.stage.submissions.withdrawn(parcel.script.indices)
            parcel.script.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others of the run may lie there
                parcel.script.path.parent.rmdir()

    def _shortage(self, members: int) -> str | None:
        return self.patience.persist(lambda: self.limits.shortage(members))

    def _require_room(self, members: int) -> None:
        found = self._shortage(members)
        if found is not None:
            raise SubmitLimitError(
                f"expected room in Slurm's queue for {members} members of '{self.stage.name}', "
                f"each of which counts as a job, found: {found}. Nothing was sent. Send them "
                "when the queue has emptied, fewer at a time, or as room comes, with "
                "'yaoki submit --wait-for-room' or RobustExecutor(..., wait_for_room=True); or "
                "name an account or a QOS that has more room."
            )

    def _await_room(self, members: int) -> None:
        if not self.limits.can_ever_hold(members):
            self._require_room(members)
        while self._shortage(members) is not None:
            time.sleep(self.room_seconds)
