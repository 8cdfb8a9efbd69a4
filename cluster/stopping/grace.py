"""The grace time: what passes between a stop signal and SIGKILL, and whether a save fits in it."""

import math
import signal
from dataclasses import dataclass
from typing import Self

from cluster.stopping.deadline import KILL_WAIT, grace_seconds


@dataclass(frozen=True)
class Grace:
    """Seconds from each stop signal to SIGKILL; without end where nothing is known.

    Attributes:
        usr2: After USR2, which announces the time limit.
        term: After TERM: preemption, ``scancel``.
    """

    usr2: float = math.inf
    term: float = math.inf

    @classmethod
    def of(cls, signal_delay: float) -> Self:
        """The grace of an attempt, as far as its process can know.

        Raises:
            ValueError: ``YAOKI_KILL_WAIT`` is no positive number.
        """
        signals = signal.SIGUSR2, signal.SIGTERM
        return cls(*(grace_seconds(signum, signal_delay) for signum in signals))

    @property
    def shortest(self) -> float:
        """The shorter of the two."""
        return min(self.usr2, self.term)

    def warning(self, seconds: float, interval: float) -> str:
        """What to say where a stop may have to wait longer for its save than it is given.

        Args:
            seconds: How long it may have to wait.
            interval: How often saves are made for that reason.
        """
        remedies = []
        if seconds > self.usr2:
            remedies.append(f"a signal_delay of more than {self.usr2:g} s")
        if seconds > self.term:
            remedies.append(
                f"a KillWait or GraceTime of more than {self.term:g} s (tell it in {KILL_WAIT})"
            )
        return (
            f"a stop may have to wait {seconds:.1f} s for a save that is being written and for "
            f"its own, expected at most {self.shortest:g} s, when SIGKILL comes; what was done "
            f"since the last save would be lost. Saves are made every {interval:.0f} s from now "
            f"on. Remedy: {', '.join(remedies)}, a smaller state or a faster disk."
        )
