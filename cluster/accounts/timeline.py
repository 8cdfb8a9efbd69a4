"""Where the time of an attempt went."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Parts:
    """The time that an attempt held its resources, cut into parts that add up to it. Seconds.

    Attributes:
        useful: Steps that are part of the final history.
        lost: Steps that a later attempt took again, or will have to.
        startup: From the start of the job to the first step.
        saving: Steps standing still for saves.
        rest: Leaving: from the last save to the moment when Slurm had the resources back.
    """

    useful: float = 0.0
    lost: float = 0.0
    startup: float = 0.0
    saving: float = 0.0
    rest: float = 0.0

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(
            self.useful + other.useful,
            self.lost + other.lost,
            self.startup + other.startup,
            self.saving + other.saving,
            self.rest + other.rest,
        )

    @property
    def allocated(self) -> float:
        """All of it."""
        return self.useful + self.lost + self.startup + self.saving + self.rest

    @property
    def goodput(self) -> float | None:
        """The useful share, from 0 to 1; None where there is no time at all."""
        return min(1.0, self.useful / self.allocated) if self.allocated > 0 else None


def total(parts: Iterable[Parts]) -> Parts:
    """Parts added up."""
    return sum(parts, Parts())


@dataclass(frozen=True)
class Timeline:
    """The moments of an attempt, in seconds since the epoch.

    They come from several clocks, so each is taken to be no earlier than the one before it.

    Attributes:
        allocated: Slurm gave the resources, or the attempt started.
        began: The first step began; None where none did.
        left: The process ended.
        released: Slurm had the resources back.
        kept_until: Steps that were taken up to here are part of the final history.
        saving: Seconds between ``began`` and ``left`` in which steps stood still for saves.
        saved_all: Whether no step was taken after ``kept_until``: what follows it is leaving.
    """

    allocated: float
    began: float | None
    left: float
    released: float
    kept_until: float = inf
    saving: float = 0.0
    saved_all: bool = False

    def parts(self) -> Parts:
        """Where its time went."""
        left = max(self.allocated, self.left)
        began = left if self.began is None else min(max(self.allocated, self.began), left)
        released = max(left, self.released)
        window = left - began
        kept = min(max(self.kept_until, began), left) - began
        # Nobody noted when saves were made: they are spread evenly.
        saving = min(max(self.saving, 0.0), window)
        moving = 1.0 - saving / window if window > 0 else 1.0
        tail = (window - kept) * moving
        return Parts(
            useful=kept * moving,
            lost=0.0 if self.saved_all else tail,
            startup=began - self.allocated,
            saving=saving,
            rest=released - left + (tail if self.saved_all else 0.0),
        )
