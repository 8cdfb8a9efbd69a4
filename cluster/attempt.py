"""An attempt: one execution of a member, which may be asked to leave between any two steps."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from cluster import random_state
from cluster.checkpoint import CheckpointStore
from cluster.hostmemory import microbatch_limit
from cluster.member import Member
from cluster.signals import StopFlag


class Work(Protocol):
    """What the step loop needs of user code: a trainer, a sampler, a simulator."""

    @property
    def steps_done(self) -> int:
        """Steps finished so far."""

    @property
    def steps_total(self) -> int:
        """Steps to do; it may change on the way (early stopping)."""

    def state_dict(self) -> Mapping[str, Any]:
        """Everything that the next step depends on, apart from the global random generators."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""


@runtime_checkable
class Resizable(Protocol):
    """What work may have besides, so that out of host memory can be answered with less of it."""

    @property
    def microbatch(self) -> int:
        """Samples taken at once."""

    def limit_microbatch(self, limit: int) -> None:
        """Take at most ``limit`` samples at once from now on."""


class Interrupted(BaseException):
    """The attempt was asked to leave and has saved.

    It derives from ``BaseException`` so that a user's ``except Exception`` does not swallow it.
    """


@dataclass
class Attempt:
    """One execution of a member.

    Args:
        member: Whose attempt it is.
        number: 1 for the first.
        stop: The flag that signals set.
        checkpoint_seconds: Save when this much time has passed since the last save.
        keep: Checkpoints to keep.
    """

    member: Member
    number: int
    stop: StopFlag
    checkpoint_seconds: float = 60.0
    keep: int = 2
    resumed_step: int = field(default=0, init=False)
    last_step: int = field(default=0, init=False)
    _microbatch: int | None = field(default=None, init=False)
    _saved: tuple[int, int] | None = field(default=None, init=False)
    _saved_at: float = field(default_factory=time.monotonic, init=False)
    _reported_at: float = field(default=0.0, init=False)

    @property
    def checkpoints(self) -> CheckpointStore:
        """The member's checkpoints."""
        return CheckpointStore(self.member.checkpoints, self.keep)

    @property
    def microbatch_limit(self) -> int | None:
        """How many samples to take at once at most, after attempts that were out of host memory.

        :meth:`steps` hands it to work that is :class:`Resizable`.
        """
        return microbatch_limit(self.member.ledger, self.number)

    def note_microbatch(self, microbatch: int) -> None:
        """Note how many samples are taken at once; a kill for memory leaves no time to tell."""
        if microbatch != self._microbatch:
            self.member.ledger.microbatch(self.number, microbatch)
            self._microbatch = microbatch

    def restore(self, work: Work) -> bool:
        """Bring ``work`` and all random generators to the newest checkpoint.

        Returns:
            Whether there was one.
        """
        checkpoint = self.checkpoints.load()
        if checkpoint is None:
            return False
        work.load_state_dict(checkpoint.state["work"])
        random_state.restore(checkpoint.state["random"])
        self.resumed_step = self.last_step = checkpoint.step
        self._saved = checkpoint.step, work.steps_total
        return True

    def steps(self, work: Work) -> Iterator[int]:
        """Yield the number of each step to take, until the work is done.

        Between steps it answers a stop, saves when a save is due, and reports progress. The end
        is saved too, so that whatever follows the loop can be repeated.

        Raises:
            Interrupted: A signal asked the attempt to leave; the state is saved.
            CheckpointError: The disk refused a save.
        """
        sizes = work if isinstance(work, Resizable) else None
        limit = self.microbatch_limit
        if sizes is not None and limit is not None:
            sizes.limit_microbatch(limit)
        while True:
            done = self.last_step = work.steps_done
            self._report(done, work.steps_total)
            finished = done >= work.steps_total
            if finished or self.stop or self._save_is_due():
                self.save(work)
            if finished:
                return
            self.leave_if_asked()
            if sizes is not None:
                self.note_microbatch(sizes.microbatch)
            yield done

    def leave_if_asked(self) -> None:
        """Leave here if a signal asked for it; for code outside the step loop.

        Raises:
            Interrupted: A signal asked the attempt to leave.
        """
        if self.stop:
            raise Interrupted

    def save(self, work: Work) -> None:
        """Write a checkpoint, unless the step was saved already."""
        place = work.steps_done, work.steps_total
        if place != self._saved:
            state = {"work": dict(work.state_dict()), "random": random_state.capture()}
            self.checkpoints.save(work.steps_done, state)
        self._saved, self._saved_at = place, time.monotonic()

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.checkpoint_seconds

    def _report(self, done: int, total: int) -> None:
        # A hint for progress bars: not fsynced, at most once a second, and lost without harm.
        now = time.monotonic()
        if now - self._reported_at < 1.0 and done < total:
            return
        self._reported_at = now
        path = self.member.progress_file
        scratch = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps({"step": done, "of": total, "attempt": self.number}))
            scratch.replace(path)
