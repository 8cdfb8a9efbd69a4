"""One contender under one schedule of faults."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from benchmarks.faults.contender import Contender
from benchmarks.faults.dealing import PATIENCE_ELSE, PATIENCE_FOR, Dealer, Target
from benchmarks.faults.disk import small_disks
from benchmarks.faults.scene import Life, Trace
from benchmarks.faults.schedule import Fault, Kind, of_member
from benchmarks.faults.work import Terms
from cluster import slurm

#: States of Slurm's out of which a job comes only by the hand of somebody.
ENDED = frozenset(("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL")) | {
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
}
#: How long a job must read so before it counts, seconds: Slurm requeues some a moment later, and
#: a tool may start it again when it is asked for the result.
ENDED_SECONDS = 30.0
#: Nobody starts a member again more often than this.
MOST_BY_HAND = 5


@dataclass
class Blow:
    """A fault that was dealt, and what came of it.

    Attributes:
        fault: The fault.
        dealt: Whether the member was there to be hit.
        survived: Whether it went on with steps that it had not done before.
        interrupted: Whether its process ended.
        lost: Steps that were done again.
        gap: Seconds from the last step before the fault took effect to the first new one.
        queued: Those of them until the new process was born: leaving, Slurm's delay, the queue.
        by_hand: Whether the tool's user had to start the member again.
    """

    fault: Fault
    dealt: bool = False
    survived: bool = False
    interrupted: bool = False
    lost: int = 0
    gap: float = 0.0
    queued: float = 0.0
    by_hand: bool = False


@dataclass
class Outcome:
    """What a member has come to."""

    member: int
    blows: list[Blow]
    finished: bool = False
    steps: int = 0
    lives: int = 0
    by_hand: int = 0
    seconds: float = 0.0


class Queue:
    """The states of all members' jobs, asked of Slurm at most once a second."""

    def __init__(self, contender: Contender, members: int) -> None:
        self.contender, self.members = contender, members
        self._states: dict[str, str] = {}
        self._asked = 0.0
        self._lock = threading.Lock()

    def state(self, member: int) -> str:
        """The last state heard of, or nothing where Slurm does not know the job."""
        job = self.contender.job(member)
        with self._lock:
            if time.monotonic() - self._asked > 1.0:
                jobs = [self.contender.job(other) for other in range(self.members)]
                with suppress(slurm.SlurmError):  # away for a moment: what was heard still holds
                    self._states = slurm.queued_states(jobs)
                self._asked = time.monotonic()
            return self._states.get(job, "")


@dataclass
class Drive:
    """Drives one member through its faults; a thread of the campaign."""

    contender: Contender
    terms: Terms
    dealer: Dealer
    queue: Queue
    member: int
    faults: Sequence[Fault]
    deadline: float
    by_hand: int = 0
    asked: float = 0.0
    trace: Trace = field(init=False)

    def __post_init__(self) -> None:
        self.scene = self.terms.scene(self.contender.name, self.member)
        self.trace = Trace(self.scene.trace_file)

    def run(self) -> Outcome:
        begun = time.time()
        blows = [self._meet(fault) for fault in self.faults]
        self._await(lambda: False)
        return Outcome(
            self.member,
            blows,
            finished=self.finished,
            steps=self.trace.read().top,
            lives=len(self.trace.lives),
            by_hand=self.by_hand,
            seconds=time.time() - begun,
        )

    @property
    def finished(self) -> bool:
        return self.scene.final_file.exists()

    def _meet(self, fault: Fault) -> Blow:
        """Wait for the step of a fault, deal it, and watch what comes of it."""
        blow = Blow(fault)
        if not self._await(lambda: self._is_at(fault.step)) or self.finished:
            return blow
        life = self.trace.lives[-1]
        try:
            target = Target(psutil.Process(life.pid), self.scene, self.contender.disk(self.member))
            job = target.job
            before = time.time()
            self.dealer.deal(fault.kind, target)
        except psutil.NoSuchProcess:
            return self._meet(fault)  # gone by itself at this very moment
        blow.dealt = True
        by_hand = self.by_hand
        self._watch(blow, life, before)
        if fault.kind is not Kind.TIMEOUT:
            self.dealer.make_good(fault.kind, target, job, self.terms.minutes)
        blow.survived = self._await(self._recovers)
        if fault.kind is Kind.TIMEOUT:
            # Only now: a job that is on its way back into the queue takes no other limit.
            self.dealer.make_good(fault.kind, target, job, self.terms.minutes)
        blow.by_hand = self.by_hand > by_hand
        self._measure(blow, life, before)
        return blow

    def _is_at(self, step: int) -> bool:
        """Whether the member works at new steps, from this one on."""
        return self._recovers() and self.trace.top >= step

    def _recovers(self) -> bool:
        life = self.trace.life
        return life is not None and life.runs and self._has_news(life)

    def _has_news(self, life: Life) -> bool:
        earlier = [e.steps[-1][1] for e in self.trace.lives if e.steps and e is not life]
        return bool(life.steps) and life.steps[-1][1] > max(earlier, default=-1)

    def _watch(self, blow: Blow, life: Life, before: float) -> None:
        """Wait until the process has ended, or has long gone on as if nothing had been."""
        patience = PATIENCE_FOR.get(blow.fault.kind, PATIENCE_ELSE)
        while life.runs and not self.finished and time.time() < before + patience:
            time.sleep(0.1)
        blow.interrupted = not life.runs and not self.finished

    def _await(self, reached: Callable[[], bool]) -> bool:
        """Wait for something; False if the member has left the queue for good before."""
        ended_since = None
        while not (self.finished or reached()):
            self.trace.read()
            if time.time() > self.deadline:
                return False
            if time.time() > self.asked + 1.0:
                self.contender.done(self.member)
                self.asked = time.time()
            gone = self.queue.state(self.member) in ENDED
            ended_since = (ended_since or time.time()) if gone else None
            if ended_since is not None and time.time() > ended_since + ENDED_SECONDS:
                if not self._start_again():
                    return False
                ended_since = None
            time.sleep(0.2)
        self.trace.read()
        return True

    def _start_again(self) -> bool:
        if self.by_hand == MOST_BY_HAND or not self.contender.start_again(self.member):
            return False
        self.by_hand += 1
        return True

    def _measure(self, blow: Blow, life: Life, before: float) -> None:
        lives = self.trace.read().lives
        later = lives[lives.index(life) + 1 :]
        done = [(when, step) for when, step in life.steps]
        if not later:
            after = [when for when, _ in done if when > before]
            earlier = [when for when, _ in done if when <= before]
            if after and earlier:
                blow.gap = after[0] - earlier[-1]
            return
        top = done[-1][1]
        fresh = [when for new in later for when, step in new.steps if step > top]
        blow.lost = max(0, top - later[-1].resumed)
        blow.queued = later[0].born - done[-1][0]
        blow.gap = fresh[0] - done[-1][0] if fresh else 0.0


def run_campaign(
    contender: Contender, terms: Terms, dealer: Dealer, faults: Sequence[Fault], seconds: float
) -> list[Outcome]:
    """Submit all members, deal the faults, and wait until every member has ended for good.

    Args:
        contender: The tool.
        terms: What it is given.
        dealer: Deals the faults.
        faults: The schedule.
        seconds: After this long whoever has not finished is given up.
    """
    members = range(terms.members)
    with small_disks([contender.disk(member) for member in members]):
        contender.submit()
        queue, deadline = Queue(contender, terms.members), time.time() + seconds
        drives = [
            Drive(contender, terms, dealer, queue, m, of_member(faults, m), deadline)
            for m in members
        ]
        try:
            with ThreadPoolExecutor(terms.members) as threads:
                try:
                    return list(threads.map(Drive.run, drives))
                except BaseException:
                    for drive in drives:
                        drive.deadline = 0.0
                    raise
        finally:
            with suppress(slurm.SlurmError):
                slurm.cancel([contender.job(member) for member in members])
