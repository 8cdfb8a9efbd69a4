"""An attempt: one execution of a member, which may be asked to leave between any two steps."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from cluster.cause import Cause
from cluster.checkpoints import random_state
from cluster.checkpoints.checkpoint import Checkpoint, CheckpointError, CheckpointStore
from cluster.checkpoints.interval import faults_near
from cluster.checkpoints.saving import Pace
from cluster.memory.footprint import peak_memory, processor_seconds
from cluster.memory.hostmemory import microbatch_limit
from cluster.records.fence import Fence, Superseded
from cluster.records.member import Member
from cluster.stopping.deadline import DeadlineWatch, Overdue
from cluster.stopping.grace import Grace
from cluster.stopping.signals import StopFlag

#: Seconds between two notes of how far an attempt has come.
_REPORT_SECONDS = 1.0


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
        checkpoint_seconds: The longest time between saves. They come sooner where saves are
            cheap and faults are frequent, see :mod:`cluster.checkpoints.interval`, which also says
            what holds where it is None.
        keep: Checkpoints to keep.
        keep_bytes: Bytes that they may take together; two are kept in any case.
        signal_delay: Seconds before the time limit at which USR2 comes.
    """

    member: Member
    number: int
    stop: StopFlag
    checkpoint_seconds: float | None = None
    keep: int = 2
    keep_bytes: int | None = None
    signal_delay: float = 90.0
    resumed_step: int = field(default=0, init=False)
    last_step: int = field(default=0, init=False)
    _resumed_from: Path | None = field(default=None, init=False)
    _begun: bool = field(default=False, init=False)
    _saving: float = field(default=0.0, init=False)
    _cpu_before: float = field(default_factory=processor_seconds, init=False)
    _microbatch: int | None = field(default=None, init=False)
    _reported_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._fence = Fence(self.member.ledger, self.number)
        faults = faults_near(self.member)
        self._pace = Pace(self.checkpoints, self.checkpoint_seconds, faults, self._say)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for a save that is being written, and note what the attempt has used.

        Raises:
            CheckpointError: It has failed, and nothing else has; otherwise it becomes a note.
        """
        try:
            self._pace.settle()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(str(failure))
        finally:
            self._note_usage()

    @property
    def rank(self) -> int:
        """Which of the member's processes this is, from 0."""
        return 0

    @property
    def ranks(self) -> int:
        """How many processes the member has, see :mod:`cluster.distributed`."""
        return 1

    @property
    def is_writer(self) -> bool:
        """Whether this is the one process of the member that writes files."""
        return self.rank == 0

    def any_rank(self, flag: bool) -> bool:
        """Whether a flag is set on any rank; all of them have to call it."""
        return flag

    @property
    def checkpoints(self) -> CheckpointStore:
        """The member's checkpoints."""
        rules = self.keep, self.keep_bytes, self._fence.check
        return CheckpointStore(self.member.checkpoints, *rules)

    @property
    def microbatch_limit(self) -> int | None:
        """How many samples to take at once at most, after attempts that were out of host memory.

        :meth:`steps` hands it to work that is :class:`Resizable`.
        """
        return microbatch_limit(self.member.ledger, self.number)

    @property
    def device_oom_before(self) -> bool:
        """Whether an attempt since the last submission ended out of memory on the device."""
        return bool(self.member.ledger.spent()[Cause.DEVICE_OOM])

    def note_microbatch(self, microbatch: int) -> None:
        """Note how many samples are taken at once; a kill for memory leaves no time to tell."""
        if microbatch != self._microbatch:
            self.member.ledger.microbatch(self.number, microbatch)
            self._microbatch = microbatch

    def restore(self, work: Work) -> bool:
        """Bring ``work`` and all random generators to the newest checkpoint.

        Returns:
            Whether there was one.

        Raises:
            CheckpointError: None of them is whole, or the member had another number of ranks.
        """
        checkpoint = self._load()
        if checkpoint is None:
            return False
        self._put_back(work, checkpoint.state)
        self.resumed_step = self.last_step = checkpoint.step
        self._resumed_from = checkpoint.path
        self._pace.is_at((checkpoint.step, work.steps_total))
        return True

    def steps(self, work: Work) -> Iterator[int]:
        """Yield the number of each step to take, until the work is done.

        Between steps it answers a stop, saves when a save is due, and reports progress. The end
        is saved too, so that whatever follows the loop can be repeated.

        Raises:
            Interrupted: A signal asked the attempt to leave; the state is saved.
            Superseded: A newer attempt of the member has started; nothing is written any more.
            CheckpointError: The disk refused a save.
        """
        self._note_steps(work)
        watch = DeadlineWatch(self._own_stop, self.signal_delay, self._overdue)
        watch.start()
        self._pace.grace = Grace.of(self.signal_delay)
        try:
            yield from self._loop(work, watch)
        finally:
            watch.close()
            # The loop may be left by a break or by the work's own error: what was begun is still
            # finished, and how it went is told by whatever saves or leaves next.
            self._pace.join()
            complaint = self._pace.complaint()
            if complaint:
                self._say(complaint)

    def _loop(self, work: Work, watch: DeadlineWatch) -> Iterator[int]:
        sizes = work if isinstance(work, Resizable) else None
        limit = self.microbatch_limit
        if sizes is not None and limit is not None:
            sizes.limit_microbatch(limit)
        while True:
            # Most often there is nothing to do, and a step may take no longer than a millisecond.
            done = self.last_step = work.steps_done
            now = time.monotonic()
            finished = done >= work.steps_total
            if finished or now - self._reported_at >= _REPORT_SECONDS:
                self._report(done, work.steps_total)
            self._confer(work)
            stopped = bool(self.stop)
            if not (finished or stopped or self._pace.is_quiet(now)):
                self._save_if_due(work)
                stopped = bool(self.stop)  # a save takes time, and so may the step after it
            if finished or stopped:
                watch.begin(done, saving=True)
                self.save(work)
            if finished:
                return
            # Not leave_if_asked: to look at the ledger at every step would cost what a step does
            # on a network file system; the report above has done so within the last second.
            if stopped:
                raise Interrupted
            if sizes is not None:
                self.note_microbatch(sizes.microbatch)
            watch.begin(done)
            yield done

    def leave_if_asked(self) -> None:
        """Leave here if a signal asked for it; for code outside the step loop.

        Raises:
            Interrupted: A signal asked the attempt to leave.
            Superseded: A newer attempt of the member has started.
        """
        self._confer()
        self._fence.check()
        if self.stop:
            raise Interrupted

    def save(self, work: Work) -> None:
        """Write a checkpoint, unless the step was saved already; it is durable on return.

        Raises:
            CheckpointError: The disk refused it, or the save before, which was being written.
            Superseded: A newer attempt of the member has started.
        """
        self._fence.check()
        begun = time.monotonic()
        self._pace.save(_place(work), lambda: self._state(work))
        self._saving += time.monotonic() - begun

    def _save_if_due(self, work: Work) -> None:
        self._pace.save_if_due(_place(work), lambda: self._state(work))

    @property
    def _own_stop(self) -> StopFlag:
        """The flag that signals to this process set."""
        return self.stop

    def _confer(self, work: Work | None = None) -> None:
        """Hear what other ranks have heard."""

    def _load(self) -> Checkpoint | None:
        return self.checkpoints.load()

    def _state(self, work: Work) -> dict[str, Any]:
        return {"work": dict(work.state_dict()), "random": random_state.capture()}

    def _put_back(self, work: Work, state: Mapping[str, Any]) -> None:
        saved = 1 + len(state.get("others", ()))
        if saved != self.ranks:
            raise CheckpointError(
                f"{self.member.checkpoints}: expected a checkpoint of {self.ranks} ranks, found "
                f"one of {saved}. Run the member with as many tasks as before, or move the "
                "directory away to start it afresh."
            )
        work.load_state_dict(state["work"])
        random_state.restore(state["random"])

    def _overdue(self, overdue: Overdue) -> None:
        self._say(str(overdue))
        self.member.ledger.overdue(self.number, **asdict(overdue))

    def _note_steps(self, work: Work) -> None:
        # For the accounts, as what follows: a full disk is told of by whatever needs it.
        if not self._begun:
            with contextlib.suppress(OSError):
                path = self._resumed_from
                saved = None if path is None else path.stat().st_mtime
                self.member.ledger.steps(self.number, *_place(work), saved=saved)
        self._begun = True

    def _note_usage(self) -> None:
        with contextlib.suppress(OSError, Superseded):
            self._fence.check()
            self.member.ledger.usage(
                self.number,
                peak_mib=peak_memory(),
                cpu_seconds=round(processor_seconds() - self._cpu_before, 2),
                saving_seconds=round(self._pace.stalled + self._saving, 3),
            )

    def _say(self, text: str) -> None:
        print(f"{self.member.name}: {text}", file=sys.stderr, flush=True)

    def _report(self, done: int, total: int) -> None:
        # A hint for progress bars: not fsynced, and lost without harm.
        self._reported_at = time.monotonic()
        path = self.member.progress_file
        scratch = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            self._fence.check()
            scratch.write_text(json.dumps({"step": done, "of": total, "attempt": self.number}))
            scratch.replace(path)


def _place(work: Work) -> tuple[int, int]:
    return work.steps_done, work.steps_total
