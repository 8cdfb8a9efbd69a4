"""Signals: a handler sets a flag; everything else happens between steps.

Only the standard library is imported here, so that :func:`install` can run before anything slow
(torch, the pickle) is loaded: a signal that arrives during an import is remembered, not deadly.
"""

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from types import FrameType

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


@dataclass
class StopFlag:
    """Whether this process was asked to leave, by which signal, and when.

    The first signal decides: TERM after USR2 (a time limit, then the end of the grace time) does
    not turn a timeout into something else.
    """

    owner: int
    signum: int | None = None
    received_at: float | None = None

    def __bool__(self) -> bool:
        return self.signum is not None

    def set(self, signum: int) -> None:
        """Note a stop signal; only the first one counts."""
        if self.signum is None:
            self.signum, self.received_at = signum, time.time()

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        # A forked child (a DataLoader worker) inherits this handler. It neither dies of the
        # signal, which would fail the step in flight, nor answers it: the owner alone leaves.
        if os.getpid() == self.owner:
            self.set(signum)


def install() -> StopFlag:
    """Catch the stop signals of Slurm in this process and return the flag that they set.

    USR2 is sent ahead of the time limit, TERM by preemption, ``scancel`` and a draining node.
    CONT, which Slurm sends along with TERM, needs no handler.
    """
    flag = StopFlag(os.getpid())
    for signum in STOP_SIGNALS:
        signal.signal(signum, flag._handle)
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
