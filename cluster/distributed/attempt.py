"""An attempt of a member of several ranks: they save as one, and leave at the same step."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from cluster.attempt import Attempt, Interrupted, Work
from cluster.checkpoints import random_state
from cluster.checkpoints.checkpoint import Checkpoint
from cluster.distributed.meeting import Meeting, RankLost
from cluster.distributed.team import Moment, RanksDisagreeError, Team, is_lost_rank
from cluster.stopping.signals import StopFlag


@runtime_checkable
class PerRank(Protocol):
    """What work may have besides, where the ranks' states differ in more than the generators."""

    def rank_state_dict(self) -> Mapping[str, Any]:
        """What the next step of this rank depends on, apart from the shared state."""

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of this rank."""


@dataclass
class TeamAttempt(Attempt):
    """One rank's part in an attempt.

    ``stop`` is the flag of all ranks: it is set between two steps, on all of them at once, when a
    signal has reached any. Its block is the time in which there is a process group.

    Args:
        meeting: Where the ranks meet.
        heard: The flag that signals to this process set.
    """

    meeting: Meeting = field(kw_only=True)
    heard: StopFlag = field(kw_only=True)
    _team: Team = field(init=False)
    _limit: int | None = field(default=None, init=False)
    _oom_before: bool = field(default=False, init=False)
    _save_is_due: bool = field(default=False, init=False)
    _everyones: list[Any] = field(default_factory=list, init=False)

    def __enter__(self) -> Self:
        self._team = Team(self.meeting.place, self.meeting.join(self.number))
        known = [super().microbatch_limit, super().device_oom_before]
        self._limit, self._oom_before = self._team.told(Moment.START, known)
        return super().__enter__()

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for a save that is being written, and for the other ranks.

        Raises:
            CheckpointError: The save has failed, and nothing else has.
            RankLost: Another rank is gone; an error that only says so turns into this one.
        """
        super().__exit__(kind, error, traceback)
        if error is None:
            self._team.agree(Moment.END)
        if error is None or isinstance(error, Interrupted):
            self._team.close()
        elif isinstance(error, Exception) and is_lost_rank(error):
            raise RankLost(f"{self.meeting.place}: {error}") from error
        else:
            error.add_note(f"raised on {self.meeting.place}")

    @property
    def rank(self) -> int:
        """Which of the member's processes this is, from 0."""
        return self.meeting.place.rank

    @property
    def ranks(self) -> int:
        """How many processes the member has."""
        return self.meeting.place.ranks

    @property
    def microbatch_limit(self) -> int | None:
        """How many samples a rank may take at once, after attempts out of host memory."""
        return self._limit

    @property
    def device_oom_before(self) -> bool:
        """Whether an attempt since the last submission ended out of memory on the device."""
        return self._oom_before

    def any_rank(self, flag: bool) -> bool:
        """Whether a flag is set on any rank; all of them have to call it.

        Raises:
            RanksDisagreeError: They have not.
        """
        return bool(self._team.agree(Moment.FLAG, flag)[0])

    def save(self, work: Work) -> None:
        """Write a checkpoint; all ranks have to call it. It is durable when rank 0 returns.

        Raises:
            CheckpointError: The disk refused it, on rank 0.
        """
        self._gather(work)
        if self.is_writer:
            super().save(work)

    def _save_if_due(self, work: Work) -> None:
        if self._save_is_due:
            self._gather(work)
            if self.is_writer:
                super()._save_if_due(work)

    @property
    def _own_stop(self) -> StopFlag:
        return self.heard

    def _confer(self, work: Work | None = None) -> None:
        """Agree on whether to leave and whether to save, in one collective."""
        # The largest word wins, and a time limit tells more than the TERM that may follow it.
        stop = signal.NSIG - (self.heard.signum or 0) if self.heard else 0
        if work is None:
            (stop,) = self._team.agree(Moment.LEAVE, stop)
        else:
            due = int(self.is_writer and self._pace.is_due())
            place = work.steps_done, work.steps_total
            stop, due, *most = self._team.agree(
                Moment.STEP, stop, due, *place, *(-value for value in place)
            )
            self._save_is_due = bool(due)
            _require_same(place, most)
        if stop:
            if not self.heard:
                self._say("leaving because of a signal to another rank")
            for flag in (self.heard, self.stop):
                flag.set(signal.NSIG - stop)

    def _report(self, done: int, total: int) -> None:
        if self.is_writer:
            super()._report(done, total)

    def _load(self) -> Checkpoint | None:
        newest = super()._load() if self.is_writer else None
        told = None if newest is None else (newest.step, newest.state, str(newest.path))
        found = self._team.told(Moment.RESTORE, told)
        if found is None:
            return None
        step, state, path = found
        return Checkpoint(step, state, Path(path))

    def _gather(self, work: Work) -> None:
        own = {
            "random": random_state.capture(),
            "own": dict(work.rank_state_dict()) if isinstance(work, PerRank) else {},
        }
        self._everyones = self._team.gather(Moment.SAVE, own)

    def _state(self, work: Work) -> dict[str, Any]:
        first, *others = self._everyones
        return super()._state(work) | {"own": first["own"], "others": others}

    def _put_back(self, work: Work, state: Mapping[str, Any]) -> None:
        mine = [state, *state.get("others", ())][self.rank : self.rank + 1]
        super()._put_back(work, {**state, "random": mine[0]["random"]} if mine else state)
        if isinstance(work, PerRank):
            work.load_rank_state_dict(mine[0]["own"])


def _require_same(place: tuple[int, int], most: list[int]) -> None:
    done, total, least_done, least_total = most
    if (done, total) != (-least_done, -least_total):
        raise RanksDisagreeError(
            f"expected all ranks to have done as many steps of as many, found {-least_done} to "
            f"{done} steps done of {-least_total} to {total} (here: {place[0]} of {place[1]})"
        )
