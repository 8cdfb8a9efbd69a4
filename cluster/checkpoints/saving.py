"""Saving at the right times, and without making the steps wait for the disk."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cluster.checkpoints.checkpoint import CheckpointError, CheckpointStore
from cluster.checkpoints.interval import STALL_BUDGET, Faults, SaveCost
from cluster.checkpoints.snapshot import snapshot
from cluster.records.fence import Superseded
from cluster.stopping.grace import Grace

#: How long a disk may refuse saves while the steps go on, seconds.
REFUSAL_PATIENCE = 600.0

#: The longest time until a save that was refused is tried again, seconds.
_RETRY_SECONDS = 30.0

#: What tells one state from another: steps done and steps to do.
Place = tuple[int, int]


class Pace:
    """Saves the state of a loop of steps when a save is worth its cost.

    The time between saves follows from what they cost and how often faults come
    (:mod:`cluster.checkpoints.interval`). They are written in the background, except where the
    longest interval allowed is shorter than a save takes: the next save would wait for this one
    anyway.

    A disk that refuses a save, being full or away for a while, costs no step: the save is tried
    again, for :data:`REFUSAL_PATIENCE`, and only then it is an error.

    Args:
        store: Where checkpoints go.
        longest: The longest time between saves, seconds. It is kept whatever it costs. None
            leaves it to what saves cost.
        faults: Faults seen so far.
        say: Called with a text when saves turn out too slow for a stop, or are refused.
    """

    def __init__(
        self,
        store: CheckpointStore,
        longest: float | None,
        faults: Faults,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store = store
        self.longest = longest
        self.grace = Grace()
        self.cost = SaveCost()
        self.stalled = 0.0
        self._saver = BackgroundSaver(store)
        self._faults = faults
        self._say = say
        self._warned = False
        self._refused_since: float | None = None
        self._saved: Place | None = None
        self._begun = self._saved_at = time.monotonic()
        self._quiet_until = 0.0
        self._stall = 0.0
        self._interval = self._wanted_interval(longest)

    def is_at(self, place: Place) -> None:
        """Note that the state of ``place`` is on disk."""
        self._saved = place

    def save(self, place: Place, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a state, unless it is on disk already; it is durable on return.

        Raises:
            CheckpointError: The disk refused it.
        """
        self._settle_or_forgive()
        if place != self._saved:
            self.store.save(place[0], state())
        self._is_saved(place)

    def save_if_due(self, place: Place, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save a state, or begin to, if it is time.

        Raises:
            CheckpointError: The state cannot be saved, or the disk has refused it for too long.
        """
        if not self.is_due():
            return
        begun = time.monotonic()
        if self.longest is None or self.longest > self.cost.total:
            self._start(place, state)
            self._stall = time.monotonic() - begun
        elif self._save_or_forgive(place, state):
            self._stall = time.monotonic() - begun
            self._measured(writing=0.0)
        self.stalled += self._stall

    def is_due(self) -> bool:
        """Whether it is time to save.

        Raises:
            CheckpointError: As of :meth:`save_if_due`, of the save before.
        """
        if self._saver.done:
            self._settle_or_forgive()
        due = self._is_due(time.monotonic() - self._saved_at)
        resting = not (due or self._saver.busy)
        self._quiet_until = self._saved_at + self._patience() if resting else 0.0
        return due

    def is_quiet(self, now: float) -> bool:
        """Whether :meth:`is_due` has told that there is nothing to do until later.

        Args:
            now: What ``time.monotonic()`` says.
        """
        return now < self._quiet_until

    def settle(self) -> None:
        """Wait for the save that is being written.

        Raises:
            CheckpointError: It has failed. Told once.
        """
        try:
            writing = self._saver.wait()
        except CheckpointError:
            self._saved = None
            raise
        if writing is not None:
            self._measured(writing)
            self._refused_since = None

    def join(self) -> None:
        """Wait for the save that is being written; how it went is for :meth:`settle` to tell."""
        self._saver.join()

    def complaint(self) -> str | None:
        """What to say if saves have stalled the loop for longer than the budget allows."""
        share = self.stalled / max(time.monotonic() - self._begun, 1e-9)
        if self.longest is None or self.stalled < 1.0 or share <= STALL_BUDGET:
            return None
        return (
            f"saving stalled the steps for {share:.0%} of the time, expected at most "
            f"{STALL_BUDGET:.0%}: checkpoint_seconds={self.longest:g} asks for it, and a save "
            f"takes {self.cost.total:.1f} s. {self._wanted_interval(None):.0f} would do."
        )

    def _is_due(self, passed: float) -> bool:
        # The user's upper bound holds even if the last save is still being written; for a save
        # that is merely worth its cost nobody waits.
        worth_it = passed >= self._interval and not self._saver.busy
        return worth_it or passed >= self._bound()

    def _bound(self) -> float:
        bound = math.inf if self.longest is None else self.longest
        return bound if self._refused_since is None else min(bound, _RETRY_SECONDS)

    def _patience(self) -> float:
        return min(self._interval, self._bound())

    def _start(self, place: Place, state: Callable[[], Mapping[str, Any]]) -> None:
        self._settle_or_forgive()
        if place != self._saved:
            self._saver.start(place[0], state())
        self._saved, self._saved_at = place, time.monotonic()

    def _save_or_forgive(self, place: Place, state: Callable[[], Mapping[str, Any]]) -> bool:
        try:
            self.save(place, state)
        except CheckpointError as refusal:
            self._forgive(refusal)
            return False
        return True

    def _settle_or_forgive(self) -> None:
        try:
            self.settle()
        except CheckpointError as refusal:
            self._forgive(refusal)

    def _forgive(self, refusal: CheckpointError) -> None:
        """Let a save be tried again later, unless that has been done for long enough."""
        now = time.monotonic()
        if not isinstance(refusal.__cause__, OSError):
            raise refusal  # of the state, which no patience mends
        if self._refused_since is None:
            self._refused_since = now
            minutes = REFUSAL_PATIENCE / 60
            self._say(f"{refusal} Meanwhile the steps go on, for {minutes:.0f} minutes at most.")
        elif now - self._refused_since > REFUSAL_PATIENCE:
            raise refusal
        self._saved, self._saved_at = None, now

    def _is_saved(self, place: Place) -> None:
        self._saved, self._saved_at = place, time.monotonic()
        self._refused_since = None

    def _measured(self, writing: float) -> None:
        self.cost.measured(self._stall, writing)
        self._interval = self._wanted_interval(self.longest)
        if self.cost.at_a_stop > self.grace.shortest and not self._warned:
            self._warned = True
            self._say(self.grace.warning(self.cost.at_a_stop, self._interval))

    def _wanted_interval(self, longest: float | None) -> float:
        faults = self._faults + Faults(time.monotonic() - self._begun)
        return self.cost.interval(faults.mean_time(), longest, self.grace.shortest)


class BackgroundSaver:
    """Saves without making training wait for the disk, one save at a time.

    The state is copied before :meth:`start` returns; a thread serializes, digests and writes the
    copy. The thread lives as long as its save: between saves the process has no thread of ours
    that a fork could leave behind, and a fork during one inherits no lock, as the thread and its
    owner share none. Python waits for it before it exits.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._job: _Save | None = None

    def start(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy a state and start to write it, once the save before is done.

        Raises:
            CheckpointError: The save before has failed.
        """
        self.wait()
        self._job = _Save(self.store, step, snapshot(state))
        self._job.start()

    @property
    def busy(self) -> bool:
        """Whether a save is being written."""
        return self._job is not None and self._job.is_alive()

    @property
    def done(self) -> bool:
        """Whether a save has been written, or not, and nobody has asked yet."""
        return self._job is not None and not self._job.is_alive()

    def join(self) -> None:
        """Wait until nothing is being written; how it went is left for others to ask."""
        if self._job is not None:
            self._job.join()

    def wait(self) -> float | None:
        """Wait until the last state given is on disk.

        Returns:
            The seconds that its writing took, or None where that was told before.

        Raises:
            CheckpointError: It could not be saved; what was there before is untouched. Told once.
        """
        self.join()
        job, self._job = self._job, None
        if job is None:
            return None
        if job.error is None:
            return job.seconds
        if isinstance(job.error, CheckpointError | Superseded):
            raise job.error
        raise CheckpointError(
            f"could not save step {job.step} in {self.store.directory}: {job.error!r}; "
            "the checkpoints that were there are untouched"
        ) from job.error


class _Save(threading.Thread):
    def __init__(self, store: CheckpointStore, step: int, state: dict[str, Any]) -> None:
        super().__init__(name="yaoki-save")
        self.store, self.step, self.state = store, step, state
        self.error: BaseException | None = None
        self.seconds = 0.0

    def run(self) -> None:
        begun = time.monotonic()
        try:
            self.store.save(self.step, self.state)
        except BaseException as error:
            self.error = error
        self.state.clear()  # the memory is wanted before the thread is joined
        self.seconds = time.monotonic() - begun
