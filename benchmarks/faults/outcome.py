"""What came of a fault, and of a member."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.faults.scene import Life
from benchmarks.faults.schedule import Fault


@dataclass(frozen=True)
class Cost:
    """What a fault cost.

    Attributes:
        lost: Steps that were done again.
        gap: Seconds from the last step before the fault took effect to the first new one.
        queued: Those of them until the new process was born: leaving, Slurm's delay, the queue.
    """

    lost: int = 0
    gap: float = 0.0
    queued: float = 0.0


@dataclass
class Blow:
    """A fault, and what came of it.

    Attributes:
        fault: The fault.
        dealt: Whether the member was there to be hit.
        survived: Whether it went on to steps that it had not done before.
        interrupted: Whether its process ended.
        by_hand: Whether the tool's user had to start the member again.
        cost: What it cost.
    """

    fault: Fault
    dealt: bool = False
    survived: bool = False
    interrupted: bool = False
    by_hand: bool = False
    cost: Cost = Cost()


@dataclass
class Outcome:
    """What a member has come to.

    Attributes:
        member: Which.
        blows: Its faults.
        finished: Whether it has left a final state.
        steps: The furthest step that it has done.
        lives: How many processes it had.
        by_hand: How often its user had to start it again.
        seconds: How long all of that took.
    """

    member: int
    blows: list[Blow]
    finished: bool
    steps: int
    lives: int
    by_hand: int
    seconds: float


def cost(lives: Sequence[Life], hit: Life, dealt: float) -> Cost:
    """What a fault cost, from the trace.

    Args:
        lives: All processes of the member until it went on.
        hit: The one that was hit; it has done a step.
        dealt: When, seconds since the epoch.
    """
    later = lives[lives.index(hit) + 1 :]
    if not later:
        before = [when for when, _ in hit.steps if when <= dealt]
        after = [when for when, _ in hit.steps if when > dealt]
        return Cost(gap=after[0] - before[-1]) if before and after else Cost()
    ended, top = hit.steps[-1]
    fresh = [when for life in later for when, step in life.steps if step > top]
    return Cost(
        lost=max(0, top - later[-1].resumed),
        gap=fresh[0] - ended if fresh else 0.0,
        queued=later[0].born - ended,
    )
