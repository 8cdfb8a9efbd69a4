"""Which faults befall which members, and when: the same for everyone who is given the same seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can befall a member."""

    PREEMPTION = "preemption"
    TIMEOUT = "time limit"
    NODE_DOWN = "node down"
    CONTROLLER = "slurmctld restarted"
    USR2 = "USR2 by hand"
    TERM = "TERM by hand"
    KILL = "SIGKILL of the task"
    KILL_SHELL = "SIGKILL of the batch shell"
    HOST_OOM = "host out of memory"
    DEVICE_OOM = "device out of memory"
    DISK_FULL = "disk full"
    TORN = "node down, checkpoint torn"
    SCANCEL = "scancel, then retry"


#: What a member is to survive without its user; the campaign draws from these.
UNAIDED = tuple(kind for kind in Kind if kind is not Kind.SCANCEL)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        member: Whom it befalls.
        kind: What it is.
        step: It comes at the first step from this one on.
    """

    member: int
    kind: Kind
    step: int


def draw(
    seed: int, count: int, members: int, steps: int, kinds: Sequence[Kind] = UNAIDED
) -> list[Fault]:
    """Draw faults: every kind as often, and every member hit as often, as any other, up to one.

    A member meets no kind a second time before it has met all.

    Args:
        seed: The same seed gives the same faults.
        count: How many.
        members: To how many members.
        steps: How many steps a member takes. Faults come in the first 40 % of them: a member
            that waits for its time limit goes on with its steps.
        kinds: What to draw from.
    """
    source = random.Random(seed)
    order = source.sample(kinds, len(kinds))
    # Consecutive ones go to the same member.
    befallen = [n * members // count for n in range(count)]
    first, last = steps // 50, steps * 4 // 10
    return [
        Fault(member, order[n % len(order)], source.randrange(first, last))
        for n, member in enumerate(befallen)
    ]


def of_member(faults: Sequence[Fault], member: int) -> list[Fault]:
    """The faults of one member in the order in which they come."""
    return sorted((f for f in faults if f.member == member), key=lambda fault: fault.step)
