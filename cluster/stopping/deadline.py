"""The deadline of a stop: said aloud while there is still someone to say it."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.stopping.signals import StopFlag

#: Variable with the seconds between TERM and KILL: Slurm's KillWait, or a partition's GraceTime.
#: Slurm does not tell a job either of them.
KILL_WAIT = "YAOKI_KILL_WAIT"

#: Slurm's default KillWait, seconds.
DEFAULT_KILL_WAIT = 30.0

#: The share of the grace time after which a stop that was not answered is reported.
_WARN_AT = 0.8

_POLL_SECONDS = 0.5


def grace_seconds(signum: int, signal_delay: float) -> float:
    """Seconds from a stop signal to SIGKILL, as far as a process can know.

    Args:
        signum: The signal: USR2 comes ``signal_delay`` ahead of the time limit, TERM when the
            kill is already set.
        signal_delay: What was ordered from Slurm.

    Raises:
        ValueError: ``YAOKI_KILL_WAIT`` is no positive number.
    """
    if signum == signal.SIGUSR2:
        return signal_delay
    text = os.environ.get(KILL_WAIT, str(DEFAULT_KILL_WAIT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"{KILL_WAIT}: expected a number of seconds > 0, found {text!r}")
    return seconds


@dataclass(frozen=True)
class Overdue:
    """A stop that was not answered in time.

    Attributes:
        step: The step that is being taken.
        saving: Whether it is over, and its state is being saved.
        seconds: How long that had taken when this was noted.
        waited: Seconds since the signal.
        grace: Seconds from the signal to SIGKILL.
        signal: The signal's number.
    """

    step: int
    saving: bool
    seconds: float
    waited: float
    grace: float
    signal: int

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        longer = "a longer signal_delay (update_parameters(slurm_signal_delay_s=...)) or "
        if self.signal != signal.SIGUSR2:
            longer = f"a longer KillWait or GraceTime (tell it in {KILL_WAIT}) or "
        what, smaller = f"step {self.step}", "smaller steps"
        if self.saving:
            what, smaller = f"the save after step {self.step}", "a smaller state or a faster disk"
        return (
            f"{name} came {self.waited:.1f} s ago and {what} is not over after "
            f"{self.seconds:.1f} s; SIGKILL comes {self.grace:g} s after the signal, and "
            f"what was done since the last save is then lost. Remedy: {longer}{smaller}."
        )

    def brief(self) -> str:
        """The same in a few words, for a table that is read later."""
        what = f"the save after step {self.step}" if self.saving else f"step {self.step}"
        remedy = "longer signal_delay" if self.signal == signal.SIGUSR2 else "longer KillWait"
        return (
            f"{signal.Signals(self.signal).name} not answered in time: {what} took over "
            f"{self.seconds:.0f} s, the grace is {self.grace:g} s; {remedy} or smaller steps"
        )


@dataclass
class DeadlineWatch:
    """A thread that reports a stop which the step loop does not come round to answer.

    After SIGKILL nothing can be said any more, so it is said at 80 % of the grace time. The
    thread looks at the flag twice a second, rather than being started by the handler: a handler
    may interrupt its own thread in the middle of taking a lock.

    Args:
        stop: The flag that signals set.
        signal_delay: Seconds before the time limit at which USR2 comes.
        report: Called in the thread, once, with what is overdue.
    """

    stop: StopFlag
    signal_delay: float
    report: Callable[[Overdue], None]
    _place: tuple[int, bool, float] = field(default=(0, False, 0.0), init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)

    def start(self) -> None:
        """Start watching.

        Raises:
            ValueError: ``YAOKI_KILL_WAIT`` is no positive number.
        """
        grace_seconds(signal.SIGTERM, self.signal_delay)  # told here rather than in the thread
        threading.Thread(target=self._watch, name="yaoki-deadline", daemon=True).start()

    def begin(self, step: int, saving: bool = False) -> None:
        """Note that a step begins, or the save after it."""
        self._place = step, saving, time.monotonic()

    def close(self) -> None:
        """The loop has been left: nothing is overdue any more."""
        # A forked child has the event in whatever state the thread, which it lacks, left it in.
        if os.getpid() == self.stop.owner:
            self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._pause()):
            waited, grace = self._waited(), self._grace()
            if waited >= _WARN_AT * grace:
                step, saving, begun = self._place
                assert self.stop.signum is not None
                seconds = time.monotonic() - begun
                self.report(Overdue(step, saving, seconds, waited, grace, self.stop.signum))
                return

    def _pause(self) -> float:
        if not self.stop:
            return _POLL_SECONDS
        return max(0.0, min(_POLL_SECONDS, _WARN_AT * self._grace() - self._waited()))

    def _waited(self) -> float:
        return 0.0 if self.stop.received_at is None else time.time() - self.stop.received_at

    def _grace(self) -> float:
        signum = self.stop.signum
        return math.inf if signum is None else grace_seconds(signum, self.signal_delay)
