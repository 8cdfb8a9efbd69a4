"""One member, driven through its faults."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from benchmarks.faults.contender import Contender
from benchmarks.faults.dealing import PATIENCE_ELSE, PATIENCE_FOR, STEPS_FOR, Dealer, Target
from benchmarks.faults.outcome import Blow, Outcome, cost
from benchmarks.faults.scene import Life, Trace
from benchmarks.faults.schedule import Fault, Kind
from benchmarks.faults.work import Terms
from cluster.scheduler import slurm

#: States of Slurm's out of which a job comes only by the hand of somebody.
ENDED = frozenset(("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL")) | {
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
}
#: How long a job must read so before it counts, seconds: Slurm requeues some a moment later, and
#: a tool may start it again when it is asked for the result.
ENDED_SECONDS = 45.0
#: Nobody starts a member again more often than this.
MOST_BY_HAND = 5


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
    """Drives one member through its faults; a thread of the campaign.

    Args:
        contender: The tool.
        terms: What it is given.
        dealer: Deals the faults.
        queue: Knows the states of the members' jobs.
        member: Which member.
        faults: Its faults, in order.
        deadline: When to give it up, seconds since the epoch.
    """

    contender: Contender
    terms: Terms
    dealer: Dealer
    queue: Queue
    member: int
    faults: Sequence[Fault]
    deadline: float
    by_hand: int = field(default=0, init=False)
    _asked: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.scene = self.terms.scene(self.contender.name, self.member)
        self.trace = Trace(self.scene.trace_file)

    def run(self) -> Outcome:
        """Deal it its faults, then wait until it has ended for good."""
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
            job, before = target.job, time.time()
            self.dealer.deal(fault.kind, target)
        except psutil.NoSuchProcess:
            return self._meet(fault)  # gone by itself at this very moment
        except slurm.SlurmError as error:
            print(f"member {self.member}: {fault.kind} could not be dealt: {error}", flush=True)
            return blow
        blow.dealt, by_hand = True, self.by_hand
        self._watch(blow, life, before)
        self.dealer.relieve(fault.kind, target)
        blow.survived = self._await(self._recovers)
        if fault.kind is Kind.TIMEOUT:
            # Only now: a job that is on its way back into the queue takes no other limit.
            self.dealer.restore_limit(job, self.terms.minutes)
        blow.by_hand = self.by_hand > by_hand
        blow.cost = cost(self.trace.read().lives, life, before)
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
        enough = self.trace.read().top + STEPS_FOR.get(blow.fault.kind, self.terms.steps)
        while life.runs and not self.finished and time.time() < before + patience:
            if self.trace.read().top >= enough:
                break
            time.sleep(0.1)
        blow.interrupted = not life.runs and not self.finished

    def _await(self, reached: Callable[[], bool]) -> bool:
        """Wait for something; False if the member has left the queue for good before."""
        ended_since = None
        while not (self.finished or reached()):
            self.trace.read()
            if time.time() > self.deadline:
                return False
            if time.time() > self._asked + 1.0:
                self.contender.done(self.member)
                self._asked = time.time()
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
        try:
            if self.by_hand == MOST_BY_HAND or not self.contender.start_again(self.member):
                return False
        except slurm.SlurmError:
            return True  # away for a moment: later, then
        self.by_hand += 1
        return True
