"""Signals: a handler sets a flag; everything else happens between steps.

Only the standard library is imported here, so that :func:`install` can run before anything slow
(torch, the pickle) is loaded: a signal that arrives during an import is remembered, not deadly.
"""

import ctypes
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from types import FrameType

from cluster.stopping import shielding

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


@dataclass
class StopFlag:
    """Whether this process was asked to leave, by which signal, and when.

    The first signal decides: TERM after USR2 (a time limit, then the end of the grace time) does
    not turn a timeout into something else.
    """

    owner: int
    # A list, for append is atomic: of several threads that set the flag one is the first.
    _received: list[tuple[int, float]] = field(default_factory=list, init=False)

    def __bool__(self) -> bool:
        self._collect()
        return bool(self._received)

    @property
    def signum(self) -> int | None:
        """The signal that decides."""
        return self._received[0][0] if self._received else None

    @property
    def received_at(self) -> float | None:
        """When it came, seconds since the epoch."""
        return self._received[0][1] if self._received else None

    def set(self, signum: int) -> None:
        """Note a stop signal; only the first one counts."""
        if not self._received:
            self._received.append((signum, time.time()))

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        # A child that was forked by other means than Python's inherits this handler. It neither
        # dies of the signal, which would fail the step in flight, nor answers it.
        if os.getpid() == self.owner:
            self._collect()
            self.set(signum)

    def _collect(self) -> None:
        # A USR2 that came before, and for which the listening thread had no turn yet.
        waiting = not self._received and signal.SIGUSR2 in signal.sigpending()
        if waiting and os.getpid() == self.owner:
            self.set(signal.SIGUSR2)

    def _listen(self, arrivals: int) -> None:
        # Of all threads this one alone does not block USR2, so it is the one that receives it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        while not self:
            (signum,) = os.read(arrivals, 1)
            if signum in STOP_SIGNALS:
                self.set(signum)


def install() -> StopFlag:
    """Catch the stop signals of Slurm in this process and return the flag that they set.

    USR2 is sent ahead of the time limit, TERM by preemption, ``scancel`` and a draining node.
    CONT, which Slurm sends along with TERM, needs no handler. Children are kept from dying of
    either, see :mod:`cluster.stopping.shielding`.

    Python runs a handler when the main thread comes back to Python, which a long call into
    compiled code delays. A thread that is told by the interpreter's C handler, through a pipe,
    sets the flag at once.
    """
    flag = StopFlag(os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    for signum in STOP_SIGNALS:
        signal.signal(signum, flag._handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # whoever started this blocks it
    arrivals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    threading.Thread(
        target=flag._listen, args=(arrivals,), name="yaoki-signals", daemon=True
    ).start()
    shielding.shield_forks()
    return flag


def follow_parent(parent: int) -> None:
    """Have the kernel send this process TERM when its parent dies (Linux).

    Members of a local run whose launcher was killed save and leave, instead of working on with
    no one to answer to.

    Args:
        parent: Process id of the parent, which may be gone already.
    """
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
