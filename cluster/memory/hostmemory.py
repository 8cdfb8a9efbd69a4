"""Out of memory on the host: what a member gets instead of the same memory with the same batch.

Nothing in the killed process runs, so all of this is worked out from the ledger, by whoever comes
next: the exit trap of the batch script, or the next attempt.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.cause import Cause
from cluster.records.ledger import Ledger


class Order(StrEnum):
    """What gives way first."""

    MICROBATCH_FIRST = "microbatch first"
    MEMORY_FIRST = "memory first"
    MICROBATCH_ONLY = "microbatch only"
    MEMORY_ONLY = "memory only"


@dataclass(frozen=True)
class HostMemory:
    """The rules of a stage for members that exceed their memory.

    Args:
        order: Whether the microbatch is halved or more memory is asked for, and which first.
        growth: The factor by which the memory grows.
        memory_cap: The most memory, as a multiple of what was asked for at first.

    Raises:
        ValueError: A value is not as said.
    """

    order: Order = Order.MICROBATCH_FIRST
    growth: float = 1.5
    memory_cap: float = 4.0

    def __post_init__(self) -> None:
        # Also turns the text that stage.json holds into the enumeration.
        object.__setattr__(self, "order", Order(self.order))
        if not (self.growth > 1 and self.memory_cap >= 1):
            raise ValueError(
                "host memory: expected growth > 1 and memory_cap >= 1, "
                f"found growth={self.growth}, memory_cap={self.memory_cap}"
            )


@dataclass(frozen=True)
class Sizes:
    """What an attempt has to live with.

    Attributes:
        memory: What Slurm gives it, in MiB, or None where nothing limits it or nobody knows.
        microbatch: Samples it takes at once, or None where it has no such number.
    """

    memory: int | None = None
    microbatch: int | None = None


def next_sizes(
    failed: Sequence[Sizes],
    offered: Sequence[Sizes],
    rules: HostMemory,
    asked: int | None,
    largest_node: int | None = None,
) -> Sizes | None:
    """What to try after the last of some attempts that were out of host memory.

    Args:
        failed: Sizes of all such attempts, oldest first.
        offered: What was tried, or was to be tried, after them. It is never offered twice: an
            attempt that took other sizes all the same does not do as it is told.
        rules: The stage's.
        asked: The memory asked for at first, in MiB.
        largest_node: The memory of the largest node, in MiB, where it is known.

    Returns:
        Sizes that differ from all of ``failed`` and ``offered``, with no attempt having failed
        on as much memory and as small a microbatch; None where nothing is left to try.
    """
    last = failed[-1]
    most = int((asked or 0) * rules.memory_cap)
    most = most if largest_node is None else min(most, largest_node)
    ways: Mapping[Order, Iterable[Iterator[Sizes]]] = {
        Order.MICROBATCH_FIRST: (_halved(last), _raised(last, rules.growth, most)),
        Order.MEMORY_FIRST: (_raised(last, rules.growth, most), _halved(last)),
        Order.MICROBATCH_ONLY: (_halved(last),),
        Order.MEMORY_ONLY: (_raised(last, rules.growth, most),),
    }
    for way in ways[rules.order]:
        for sizes in way:
            if sizes not in offered and not any(_as_generous(old, sizes) for old in failed):
                return sizes
    return None


def failed_sizes(ledger: Ledger) -> dict[int, Sizes]:
    """The sizes of every attempt that ended out of host memory, by its number."""
    ended = {a.number: a for a in ledger.attempts() if a.cause is Cause.HOST_OOM}
    return {number: attempt_sizes(ledger, number) for number in ended}


def attempt_sizes(ledger: Ledger, number: int) -> Sizes:
    """The sizes that an attempt has, or had last."""
    sizes = Sizes()
    for event in ledger.events():
        if event.get("attempt") != number:
            continue
        if event["event"] == "start":
            sizes = Sizes(given_memory(event["where"].get("slurm", {})))
        elif event["event"] == "microbatch":
            sizes = Sizes(sizes.memory, event["microbatch"])
    return sizes


def given_memory(where: Mapping[str, Any]) -> int | None:
    """The memory that Slurm gave on a node, in MiB, from the variables noted in the ledger."""
    a_node, a_core = int(where.get("mem_per_node", 0)), int(where.get("mem_per_cpu", 0))
    # 0 is Slurm's word for all there is.
    return a_node or a_core * int(where.get("cpus_on_node", 0)) or None


def asked_memory(ledger: Ledger) -> int | None:
    """The memory that the member was submitted with, in MiB, or None where nobody knows."""
    first: dict[str, Any] | None = None
    for event in ledger.events():
        if event["event"] == "queued":
            first = None
        elif event["event"] == "start" and first is None:
            first = event["where"].get("slurm", {})
    return given_memory(first or {})


def offered_sizes(ledger: Ledger) -> list[Sizes]:
    """What was to be tried after attempts that were out of host memory, oldest first."""
    return [
        Sizes(event["memory"], event["microbatch"])
        for event in ledger.events()
        if event["event"] == "remedy"
    ]


def microbatch_limit(ledger: Ledger, number: int) -> int | None:
    """How many samples attempt ``number`` may take at once, or None where nothing is known.

    The newest remedy says it. After a submission by hand, which may bring other memory, it is
    half of what was too much for an attempt with as much memory or more.
    """
    memory = attempt_sizes(ledger, number).memory
    limits = [
        max(1, old.microbatch // 2)
        for other, old in failed_sizes(ledger).items()
        if other < number and old.microbatch is not None and _at_most(memory, old.memory)
    ]
    remedies = [e for e in ledger.events() if e["event"] in ("queued", "remedy")]
    if remedies and remedies[-1].get("microbatch") is not None:
        limits.append(remedies[-1]["microbatch"])
    return min(limits, default=None)


def limited(microbatch: int, grain: int, limit: int) -> tuple[int, int]:
    """Cut a microbatch down to a limit; it stays a whole number of grains.

    Where not even a grain is within the limit the grain is cut too; the gradient is then equal
    up to the rounding of the sum, where otherwise it is equal bit for bit.

    Returns:
        The microbatch and the grain.
    """
    if microbatch <= limit:
        return microbatch, grain
    grain = min(grain, limit)
    return limit // grain * grain, grain


def verdict(sizes: Sizes, rules: HostMemory, why: str, peak: int | None = None) -> str:
    """What to tell the user where a member is not tried again, and what he can do."""
    had = "no limit known" if sizes.memory is None else f"{sizes.memory} MiB"
    took = "" if sizes.microbatch is None else f" and a microbatch of {sizes.microbatch}"
    used = "" if peak is None else f", of which {peak} MiB were seen in use"
    return (
        f"out of host memory with {had}{took}{used}; {why} (host memory: {rules.order}, at most "
        f"{rules.memory_cap:g} times what was asked for). Ask for more memory (mem_gb), or make "
        "the work smaller, and start the member again with 'yaoki retry'."
    )


def _halved(last: Sizes) -> Iterator[Sizes]:
    if last.microbatch is not None and last.microbatch > 1:
        yield Sizes(last.memory, last.microbatch // 2)


def _raised(last: Sizes, growth: float, most: int) -> Iterator[Sizes]:
    memory = last.memory
    while memory is not None and memory < most:
        memory = min(round(memory * growth) + (round(memory * growth) == memory), most)
        yield Sizes(memory, last.microbatch)


def _as_generous(old: Sizes, new: Sizes) -> bool:
    """Whether an attempt had as much memory as ``new`` has, and as small a microbatch."""
    return _at_most(old.microbatch, new.microbatch) and _at_most(new.memory, old.memory)


def _at_most(a: int | None, b: int | None) -> bool:
    return a == b or (a is not None and b is not None and a <= b)
