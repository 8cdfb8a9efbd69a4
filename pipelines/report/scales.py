"""Where values stand on an axis, and which of them are written on it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_NICE = (1.0, 2.0, 5.0, 10.0)
#: Seconds that a clock's axis may count in.
_CLOCK = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * n for n in (1, 2, 5, 10, 15, 30)),
    *(3600 * n for n in (1, 2, 3, 6, 12)),
    *(86_400 * n for n in (1, 2, 5, 10, 20, 50)),
)


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` to 0 to 1.

    Args:
        low: The least value.
        high: The greatest, above it.
        logarithmic: Whether ratios are drawn and not differences; both are positive then.
    """

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def of(cls, values: Sequence[float]) -> "Scale":
        """One that holds all values; logarithmic where they are positive and a decade apart."""
        low, high = min(values), max(values)
        if low > 0 and high > 10 * low:
            return cls(low, high, True)
        margin = 0.05 * (high - low) or abs(high) or 1.0
        return cls(low - margin, high + margin)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        move: Callable[[float], float] = math.log if self.logarithmic else float
        return (move(value) - move(self.low)) / (move(self.high) - move(self.low))

    def text(self, value: float) -> str:
        """A value with as many digits as tell it from its neighbors."""
        ratio = max(abs(self.low), abs(self.high)) / (self.high - self.low)
        digits = 2 if self.logarithmic else 2 + max(0, math.ceil(math.log10(ratio)))
        return f"{value:.{digits}g}"

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside, at most so many."""
        if not self.logarithmic:
            return multiples(self.low, self.high, _nice((self.high - self.low) / most))
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [f * 10.0**e for e in exponents for f in factors]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]


def clock_text(seconds: float) -> str:
    """A round time in its largest unit, such as ``90 s``, ``5 min`` or ``2 h``."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def clock_ticks(seconds: float, most: int = 6) -> list[float]:
    """Round times from 0 up to a duration, at most about so many."""
    wide_enough = (step for step in _CLOCK if seconds / step <= most)
    return multiples(0.0, seconds, next(wide_enough, _nice(seconds / most)))


def multiples(low: float, high: float, step: float) -> list[float]:
    """The multiples of a step from ``low`` to ``high``."""
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _nice(least: float) -> float:
    """The next of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in _NICE if factor * power >= least * (1 - 1e-9))
