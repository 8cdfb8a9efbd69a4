r"""How often to save: often enough that a fault costs little, seldom enough that saving does.

With :math:`C` the seconds that a save costs, :math:`M` the mean time between faults and
:math:`\tau` the time from one save to the next, the share of time that is lost is

.. math:: w(\tau) \approx \frac{C}{\tau} + \frac{\tau}{2M}

The first term is spent on saving; the second is work done again, half an interval a fault.

References:
    J. W. Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974.
    J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps,
    Future Generation Computer Systems 22(3), 2006.
"""

import contextlib
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cluster.cause import Cause
from cluster.records.ledger import AttemptRecord
from cluster.records.member import Member

#: Time between faults that is assumed before any is seen, seconds. Preemptible partitions have
#: about that; on quiet ones a few hours of observation outweigh it.
PRIOR_SECONDS = 3600.0

#: What a save is taken to cost before one was measured, seconds.
PRIOR_COST = 1.0

#: The share of time that training may stand still for saves.
STALL_BUDGET = 0.02

#: The longest time between saves where the user names none, seconds. A quiet week makes faults
#: look rare and saves hardly worth their cost; this says what a kill may cost all the same.
LONGEST = 600.0

#: The share of time that saving may cost where a stop comes too suddenly for a save of its own:
#: every stop then loses what was done since the last one, and an end of some kind is certain.
RESCUE_BUDGET = 0.1


def expected_waste(interval: float, cost: float, mean_time: float) -> float:
    r"""Share of time lost when faults are a Poisson process.

    .. math:: w(\tau) = \frac{M}{\tau} \Big(e^{(\tau + C) / M} - 1\Big) - 1

    is how much longer a piece of work takes than without saves and faults (Daly 2006, with the
    time of the restart, which does not depend on the interval, left out).

    Args:
        interval: Seconds from the end of one save to the start of the next, :math:`\tau > 0`.
        cost: Seconds that a save costs, :math:`C \ge 0`.
        mean_time: Mean seconds between faults, :math:`M > 0`.
    """
    return mean_time / interval * math.expm1((interval + cost) / mean_time) - 1


def young_interval(cost: float, mean_time: float) -> float:
    r"""The interval that minimizes :math:`C / \tau + \tau / 2M` (Young 1974).

    .. math:: \tau = \sqrt{2 C M}
    """
    return math.sqrt(2 * cost * mean_time)


def daly_interval(cost: float, mean_time: float) -> float:
    r"""The interval that all but minimizes :func:`expected_waste` (Daly 2006).

    .. math::
        \tau = \sqrt{2 C M} \left[1 + \frac13 \sqrt{\frac{C}{2M}} + \frac19 \frac{C}{2M}\right] - C

    and :math:`\tau = M` where a save costs :math:`2M` or more. It grows with both arguments.
    """
    if cost >= 2 * mean_time:
        return mean_time
    ratio = cost / (2 * mean_time)
    return young_interval(cost, mean_time) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def stall_interval(stall: float, budget: float = STALL_BUDGET) -> float:
    r"""The shortest interval at which stalls take at most ``budget`` of the time.

    .. math:: \frac{s}{\tau + s} \le \beta \iff \tau \ge s \Big(\frac1\beta - 1\Big)
    """
    return stall * (1 / budget - 1)


@dataclass(frozen=True)
class Faults:
    """Faults seen, and the time in which they were.

    Attributes:
        seconds: Time that attempts ran.
        count: How many of them ended without a save.
    """

    seconds: float = 0.0
    count: int = 0

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(self.seconds + other.seconds, self.count + other.count)

    def mean_time(self, prior: float = PRIOR_SECONDS) -> float:
        r"""Mean seconds between faults, one fault in ``prior`` seconds being taken as seen.

        .. math:: M = \frac{T_0 + T}{1 + n}

        the inverse of the posterior mean of the rate of a Poisson process under a
        :math:`\Gamma(1, T_0)` prior.
        """
        return (prior + self.seconds) / (1 + self.count)


def observed_faults(attempts: Iterable[AttemptRecord]) -> Faults:
    """Count the faults in a ledger's attempts that cost work.

    A stop that was answered with a save (a time limit, a preemption) costs none, however often
    saves are made, and so does not count. Of an attempt whose end was noted by the next one
    only, it is not known how long it ran: it counts as a fault, and as no time.
    """
    return sum((_faults_of(attempt) for attempt in attempts), Faults())


def faults_near(member: Member, reach: int = 8) -> Faults:
    """Faults of a member and of those beside it in its stage.

    A stage's members run on the same machines, so each learns from the others; from a few, as a
    thousand that read a thousand ledgers would be a load of its own.

    Args:
        member: In the middle.
        reach: How many are asked on either side.
    """
    first = max(0, member.index - reach)
    found = Faults()
    for index in range(first, member.index + reach + 1):
        # A ledger that cannot be read is its own member's trouble; here it is a hint.
        with contextlib.suppress(OSError, ValueError, KeyError):
            found += observed_faults(replace(member, index=index).ledger.attempts())
    return found


def _faults_of(attempt: AttemptRecord) -> Faults:
    detail = attempt.detail or {}
    if attempt.ended is None:
        return Faults(max(0.0, time.time() - attempt.started))
    answered = attempt.cause in (Cause.FINISHED, Cause.CANCELLED) or "signal" in detail
    seconds = 0.0 if "slurm_state" in detail else max(0.0, attempt.ended - attempt.started)
    return Faults(seconds, 0 if answered else 1)


@dataclass
class SaveCost:
    """What saves have been seen to cost; each new one counts half.

    Attributes:
        stall: Seconds that training stood still, or None before the first save.
        writing: Seconds that the rest took, in the background.
    """

    stall: float | None = None
    writing: float = 0.0

    def measured(self, stall: float, writing: float) -> None:
        """Take in one more save."""
        if self.stall is None:
            self.stall, self.writing = stall, writing
        else:
            self.stall = (self.stall + stall) / 2
            self.writing = (self.writing + writing) / 2

    @property
    def total(self) -> float:
        """The whole cost, zero before the first save."""
        return (self.stall or 0.0) + self.writing

    @property
    def at_a_stop(self) -> float:
        """Seconds that a stop may wait for: the save being written, and then its own."""
        return (self.stall or 0.0) + 2 * self.writing

    def interval(
        self, mean_time: float, longest: float | None = None, grace: float = math.inf
    ) -> float:
        """Seconds to let pass between two saves.

        Daly's interval for the whole cost: serializing and writing take cores and disk from
        training although it does not wait for them. Where a stop leaves no time for a save, as
        often as :data:`RESCUE_BUDGET` lets. Never so short that stalls exceed their budget or
        that a save is due before the last one is written; and never longer than ``longest``,
        which is the user's word and outweighs all of it.

        Args:
            mean_time: Mean seconds between faults.
            longest: The upper bound, seconds. Where the user names none, it is :data:`LONGEST`,
                unless saving as often as that cost more of the time than stalls may.
            grace: Seconds from a stop to SIGKILL.
        """
        if longest is None:
            longest = max(LONGEST, stall_interval(self.total))
        if self.stall is None:
            return min(longest, daly_interval(PRIOR_COST, mean_time))
        wanted = daly_interval(self.total, mean_time)
        if self.at_a_stop > grace:
            wanted = min(wanted, stall_interval(self.total, RESCUE_BUDGET))
        return min(longest, max(wanted, stall_interval(self.stall), self.writing))
