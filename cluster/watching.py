"""From the login node: members that nothing on a node could settle, or put back into the queue.

A batch script that is killed runs no exit trap, a node that is lost without a requeue says
nothing, and many clusters have no ``scontrol`` on their nodes. What is left are a ledger and a job
that Slurm has ended or forgotten. Whoever looks next, a command or a process that waits for a
result, notes the end and starts the member again; a lock sees to it that only one of them does.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cluster.aftermath import note_lost, put_back
from cluster.cause import STATE_CAUSES, Cause
from cluster.records.files import locked
from cluster.records.history import History, Reading
from cluster.records.member import Member
from cluster.scheduler import sacct, slurm
from cluster.scheduler.patience import Patience
from cluster.stage import Stage, goes_on, load_stages, verdict, wants_another_attempt
from cluster.submitting.resending import send_again

#: States in which Slurm has nothing more to do with a job.
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
)

#: Those of a job that is not to run any more.
_GIVEN_UP = ("CANCELLED", "DEADLINE", "REVOKED")

#: Seconds between two questions to Slurm of a process that waits for results.
POLL_SECONDS = 15.0

#: A command that only looks does not stay for a Slurm that is busy.
_PATIENCE = Patience(tries=3)


@dataclass(frozen=True)
class Adrift:
    """A member that is not done and that no job carries any more.

    Attributes:
        stage: Its stage.
        member: The member.
        job: The job that carried it last.
        state: What that came to, or None where Slurm has forgotten it.
        lines: The length of the ledger.
    """

    stage: Stage
    member: Member
    job: str
    state: str | None
    lines: int


@dataclass(frozen=True)
class Notice:
    """Something that was done about a member.

    Attributes:
        member: The member's name.
        text: What was found and done.
        job_id: The job that carries it now, or None where it is not started again.
    """

    member: str
    text: str
    job_id: str | None = None


def lock_file(run: Path) -> Path:
    """What is locked by whoever sends or requeues members of a run."""
    return run / "requeue.lock"


@dataclass
class Watch:
    """Looks after the members of a run that are on Slurm.

    One look proves little: squeue may lag behind the job, and the ledger behind the node. A member
    is taken for adrift when several looks in a row, some time apart, find the same.

    Args:
        run: The run directory.
        looks: How many looks it takes.
        apart: Seconds between two looks.
        patience: How long a Slurm that is busy is asked to take a new job.
    """

    run: Path
    looks: int = 3
    apart: float = 2.0
    patience: Patience = _PATIENCE
    _seen: dict[Adrift, list[float]] = field(default_factory=dict, init=False)
    _due: float = field(default=0.0, init=False)

    def insist(self) -> list[Notice]:
        """Look until every member that is adrift now has been seen to, or is no longer.

        Raises:
            SlurmError: Slurm does not answer.
        """
        notices = self.look()
        while self._seen:
            time.sleep(self.apart)
            notices += self.look()
        return notices

    def look_now_and_then(self, seconds: float = POLL_SECONDS) -> None:
        """Look if the last look is some time ago; a Slurm that is away is asked later."""
        if time.monotonic() < self._due:
            return
        try:
            self.look()
        except slurm.SlurmError:
            self._seen.clear()
        self._due = time.monotonic() + (self.apart if self._seen else seconds)

    def look(self) -> list[Notice]:
        """Look once, and see to the members that have been found adrift often enough.

        Returns:
            What was done.

        Raises:
            SlurmError: Slurm does not answer.
        """
        now = time.monotonic()
        self._seen = {found: [*self._seen.get(found, []), now] for found in adrift(self.run)}
        ripe = {found for found, times in self._seen.items() if self._often_enough(times)}
        if not ripe:
            return []
        with locked(lock_file(self.run)):
            # Another command may have been faster.
            still = [found for found in adrift(self.run) if found in ripe]
            for found in ripe:
                del self._seen[found]
            return self._see_to(still)

    def _often_enough(self, times: list[float]) -> bool:
        return len(times) >= self.looks and times[-1] - times[0] >= (self.looks - 1) * self.apart

    def _see_to(self, members: list[Adrift]) -> list[Notice]:
        notices: list[Notice] = []
        homeless: list[Adrift] = []
        runs = sacct.run_states([found.job for found in members if _is_unclear(found)])
        for found in members:
            _settle(found, runs.get(found.job, []))
            name = found.member.name
            if not wants_another_attempt(found.member, found.stage.budgets):
                notices.append(Notice(name, _ended(found)))
            elif found.state is not None and _requeued(found):
                notices.append(Notice(name, f"{_ended(found)}; requeued", found.job))
            else:
                homeless.append(found)
        return [*notices, *self._send_again(homeless)]

    def _send_again(self, members: list[Adrift]) -> Iterator[Notice]:
        for stage in {found.stage.name: found.stage for found in members}.values():
            own = [found for found in members if found.stage.name == stage.name]
            try:
                sent = send_again(stage, [found.member for found in own], self.patience)
                why = "its script is not there"
            except slurm.SlurmError as error:
                sent, why = {}, str(error)
            for found in own:
                job = sent.get(found.member)
                done = "sent again, as a new job" if job else f"'yaoki retry' starts it: {why}"
                yield Notice(found.member.name, f"{_ended(found)}; {done}", job)


def adrift(run: Path) -> Iterator[Adrift]:
    """The members of a run that are not done and that no job carries, as far as can be seen.

    Raises:
        SlurmError: Slurm does not answer.
    """
    open_members = [
        (stage, member, ledger)
        for stage in load_stages(run)
        for member, ledger in stage.readings()
        if _is_open(stage, ledger)
    ]
    carried = {member: job for _, member, ledger in open_members if (job := _job_of(ledger))}
    states = slurm.queued_states(sorted({job.split("_")[0] for job in carried.values()}))
    for stage, member, ledger in open_members:
        job = carried.get(member)
        state = states.get(job) if job else None
        if job and (state is None or state in ENDED):
            yield Adrift(stage, member, job, state, len(ledger.events()))


def _is_open(stage: Stage, ledger: Reading) -> bool:
    """Whether the ledger says that something is at work on a member, or should be."""
    if ledger.finished():
        return False
    if ledger.open_attempt() is not None:
        return True
    return ledger.wanted() and (ledger.untouched() or goes_on(ledger, stage.budgets))


def _job_of(ledger: Reading) -> str | None:
    """The job that carries a member, or carried it last; None where it is not on Slurm."""
    sent = ledger.last_job_id()
    if sent is None or ledger.open_attempt() is None:
        return sent
    # It may have started before the id of its job was noted.
    return slurm.job_name(ledger.attempts()[-1].where.get("slurm", {})) or sent


def _is_unclear(found: Adrift) -> bool:
    """Whether accounting may know more than squeue.

    It does of a job that is forgotten, and of one that reads FAILED after a step of it was killed
    for its memory.
    """
    lost = found.member.ledger.open_attempt() is not None
    return found.state is None or (lost and found.state not in STATE_CAUSES)


def _settle(found: Adrift, runs: list[sacct.RunStates]) -> None:
    """Note the end of an attempt of which nothing was heard, and what Slurm says of the job."""
    ledger = found.member.ledger
    number = ledger.open_attempt()
    if number is not None:
        where = ledger.attempts()[-1].where.get("slurm", {})
        nth = int(where.get("restart_count", 0))
        state = runs[nth].outcome if nth < len(runs) else None
        note_lost(found.member, number, state or found.state)
        # Slurm had put it back by itself, and while it waited someone cancelled it.
        if nth + 1 < len(runs) and runs[-1].outcome in _GIVEN_UP:
            ledger.cancel()
        return
    state = found.state or (runs[-1].outcome if runs else None)
    if _was_given_up(found, state):
        ledger.cancel()
    elif _waited(ledger):
        # Killed before it could open an attempt: note one, or it would be sent for ever.
        array, _, element = found.job.partition("_")
        ids = {"array_job_id": array, "array_task_id": element}
        note_lost(found.member, ledger.start({"host": "", "pid": 0, "slurm": ids}), state)


def _was_given_up(found: Adrift, state: str | None) -> bool:
    """Whether someone cancelled the job while it waited, or while the attempt was leaving."""
    if state in _GIVEN_UP:
        return True
    # A job that waits leaves the queue in no other way.
    return state is None and _waited(found.member.ledger)


def _waited(ledger: History) -> bool:
    """Whether the last that the ledger knows is that the member was in the queue."""
    return ledger.untouched() or ledger.was_requeued(ledger.attempt_count())


def _requeued(found: Adrift) -> bool:
    """Have Slurm put the job back; a job that has ended can be had back while Slurm knows it."""
    try:
        put_back(found.member, found.job)
    except slurm.SlurmBusyError:
        return True  # perhaps it was: the next look tells
    except slurm.SlurmError:
        return False
    return True


def _ended(found: Adrift) -> str:
    ledger = found.member.ledger
    if not ledger.wanted():
        return "cancelled"
    cause = ledger.attempts()[-1].cause or Cause.KILLED
    told = f"attempt {ledger.attempt_count()} ended: {cause}"
    reason = verdict(found.member, found.stage.budgets)
    return f"{told}; {reason}" if reason else told
