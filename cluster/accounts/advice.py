"""What to ask for next time, derived from what was given and used."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from signal import SIGUSR2, Signals
from typing import Literal

from cluster.accounts.usage import AttemptUsage, StageUsage
from cluster.cause import Cause
from cluster.checkpoints.interval import LONGEST, STALL_BUDGET

#: What there is to change. ``step`` is the work itself, ``microbatch`` a setting of it.
Setting = Literal[
    "memory", "time", "signal_delay", "checkpoint_seconds", "cpus", "microbatch", "step"
]

#: How much more than the largest peak to ask for: another seed, another file, a longer run.
MEMORY_MARGIN = 1.25

#: Requests are left alone up to this many times the peak.
_MEMORY_SLACK = 1.5
#: A share of the allocated time that is worth a line.
_WORTH = 0.05
#: Below this nothing is concluded: starting up is all that one sees. Seconds.
_SHORT = 60.0
_MEMORY_UNIT = 128


@dataclass(frozen=True)
class Advice:
    """One thing to change.

    Attributes:
        stage: The stage.
        setting: What to change.
        value: Its new value: MiB, seconds or a number; None where the reason has to do.
        reason: The numbers that it follows from.
        gain: What it brings.
    """

    stage: str
    setting: Setting
    value: int | None
    reason: str
    gain: str


def advice(usage: StageUsage) -> list[Advice]:
    """What the numbers of a stage suggest; nothing where they are too few."""
    rules: Sequence[Callable[[StageUsage], Iterator[Advice]]] = (
        *(_more_memory, _smaller_microbatch, _less_memory),
        *(_longer_limit, _shorter_limit, _longer_notice, _more_saves, _fewer_cores),
    )
    return [found for rule in rules for found in rule(usage)]


def _ended(usage: StageUsage, *causes: Cause) -> list[AttemptUsage]:
    return [a for a in usage.totals.attempts if a.cause in causes]


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _more_memory(usage: StageUsage) -> Iterator[Advice]:
    """After kills for memory: what was enough in the end, or half as much again."""
    killed = [a for a in _ended(usage, Cause.HOST_OOM) if a.memory is not None]
    if not killed:
        return
    too_little = max(a.memory or 0 for a in killed)
    given = [a.memory or 0 for a in _ended(usage, Cause.FINISHED)]
    enough = [memory for memory in given if memory > too_little]
    if not enough and _shrunk(usage):
        return  # it fits with a smaller microbatch
    value = max(enough, default=_rounded(1.5 * too_little))
    known = "finished with that" if enough else "none has finished with more"
    yield Advice(
        usage.stage.name,
        "memory",
        max(value, _rounded(usage.totals.peak or 0.0)),
        f"{len(killed)} attempts were killed for their memory, with up to {too_little} MiB; "
        f"{known}",
        f"{_hours(sum(a.parts.allocated for a in killed))} of attempts that end so",
    )


def _smaller_microbatch(usage: StageUsage) -> Iterator[Advice]:
    """Where members learned that a smaller one fits, they need not learn it again."""
    shrunk = _shrunk(usage)
    if shrunk:
        asked, learned = max(old for old, _ in shrunk), min(new for _, new in shrunk)
        yield Advice(
            usage.stage.name,
            "microbatch",
            learned,
            f"{len(shrunk)} members were out of memory with {asked} and learned {learned}",
            "the attempts and steps in which that is learned",
        )


def _shrunk(usage: StageUsage) -> list[tuple[int, int]]:
    """What members began with and what they finished with, where that is less."""
    found = []
    for member in usage.members:
        sizes = [a.microbatch for a in member.attempts if a.microbatch is not None]
        if member.finished and sizes and sizes[-1][1] < sizes[0][0]:
            found.append((sizes[0][0], sizes[-1][1]))
    return found


def _less_memory(usage: StageUsage) -> Iterator[Advice]:
    """Only where Slurm saw all processes, of at least two attempts, and none was killed."""
    seen = [a for a in _ended(usage, Cause.FINISHED) if a.sampled and a.memory is not None]
    if len(seen) < 2 or _ended(usage, Cause.HOST_OOM):
        return
    asked, peak = min(a.memory or 0 for a in seen), usage.totals.peak or 0.0
    value = _rounded(MEMORY_MARGIN * peak)
    if asked > _MEMORY_SLACK * peak and value < asked:
        yield Advice(
            usage.stage.name,
            "memory",
            value,
            f"{len(seen)} attempts were given {asked} MiB and used {peak:.0f} at most",
            f"{asked - value} MiB a member, for others or for more members at once",
        )


def _rounded(mebibytes: float) -> int:
    """Up to the next size that one would write."""
    return ceil(mebibytes / _MEMORY_UNIT) * _MEMORY_UNIT


def _longer_limit(usage: StageUsage) -> Iterator[Advice]:
    """Where starting again after the time limit costs a share worth a line."""
    ended = _ended(usage, Cause.TIMEOUT)
    price = sum(
        after.parts.startup + before.parts.rest
        for member in usage.members
        for before, after in zip(member.attempts, member.attempts[1:], strict=False)
        if before.cause is Cause.TIMEOUT
    )
    if not ended or price < _WORTH * usage.totals.parts.allocated:
        return
    limit = max(a.limit or a.parts.allocated + usage.stage.signal_delay for a in ended)
    needed = max(_whole_time(usage), 2 * limit) + usage.stage.signal_delay
    yield Advice(
        usage.stage.name,
        "time",
        ceil(needed / 60) * 60,
        f"{len(ended)} attempts ended at a limit of about {_hours(limit)}",
        f"{_hours(price)} of leaving and starting up again",
    )


def _whole_time(usage: StageUsage) -> float:
    """The time that the longest member takes in one piece, as far as members have come."""
    times = [0.0]
    for member in usage.members:
        parts = member.totals.parts
        once = max((a.parts.startup for a in member.attempts), default=0.0)
        share = 1.0 if member.finished else member.done
        if share:
            times.append(1.1 * ((parts.useful + parts.saving) / share + once))
    return max(times)


def _shorter_limit(usage: StageUsage) -> Iterator[Advice]:
    """Where members wait for longer than they run, and ask for far longer than they run."""
    done = [a for a in _ended(usage, Cause.FINISHED) if a.limit is not None]
    if len(done) < 2 or _ended(usage, Cause.TIMEOUT):
        return
    limit, longest = min(a.limit or 0.0 for a in done), max(a.parts.allocated for a in done)
    waits = [a.waited for a in usage.totals.attempts if a.waited is not None]
    wait = sum(waits) / len(waits) if waits else 0.0
    value = ceil((1.5 * longest + usage.stage.signal_delay) / 60) * 60
    if limit > 2 * value and wait > max(longest, _SHORT):
        yield Advice(
            usage.stage.name,
            "time",
            value,
            f"attempts waited {_hours(wait)} on average and took {_hours(longest)} at most, "
            f"of {_hours(limit)} asked for",
            "an earlier start where shorter jobs fit into gaps",
        )


def _longer_notice(usage: StageUsage) -> Iterator[Advice]:
    """Where a stop was not answered in time."""
    late = [a for a in usage.totals.attempts if a.overdue is not None]
    for signum in sorted({int((a.overdue or {})["signal"]) for a in late}):
        notes = [a.overdue or {} for a in late if (a.overdue or {})["signal"] == signum]
        longest = max(float(note["seconds"]) for note in notes)
        grace = max(float(note["grace"]) for note in notes)
        ordered = signum == SIGUSR2
        yield Advice(
            usage.stage.name,
            "signal_delay" if ordered else "step",
            ceil(max(2 * grace, 1.5 * longest)) if ordered else None,
            f"{len(notes)} stops were not answered in time: a step or a save had taken "
            f"{longest:.1f} s, {Signals(signum).name} leaves {grace:g} s"
            + ("" if ordered else "; shorter steps would answer it"),
            f"the work since the last save, {len(notes)} times",
        )


def _more_saves(usage: StageUsage) -> Iterator[Advice]:
    r"""Where more time is lost to faults than goes into saves.

    Saving every :math:`\tau` costs :math:`S \propto 1/\tau` in stalls and loses
    :math:`L \propto \tau`. From what both came to at :math:`\tau`, the best is
    :math:`\tau' = \tau \sqrt{S/L}`, where they come to :math:`2\sqrt{SL}` (Young 1974).
    """
    parts, faults = usage.totals.parts, [a for a in usage.totals.attempts if a.parts.lost > 0]
    if parts.allocated < _SHORT or parts.lost < _WORTH * parts.allocated:
        return
    longest = usage.stage.checkpoint_seconds or LONGEST
    # A fault costs half an interval; saves may have been closer than the rule demands.
    used = min(longest, 2 * parts.lost / len(faults))
    bearable = used * parts.saving / (STALL_BUDGET * parts.allocated)
    value = ceil(max(1.0, bearable, used * sqrt(parts.saving / parts.lost)))
    if value > longest / 2:
        return
    left = parts.lost * value / used + parts.saving * used / value
    yield Advice(
        usage.stage.name,
        "checkpoint_seconds",
        value,
        f"{len(faults)} faults lost {_hours(parts.lost)}, saves took {_hours(parts.saving)}",
        f"about {_hours(max(0.0, parts.lost + parts.saving - left))}",
    )


def _fewer_cores(usage: StageUsage) -> Iterator[Advice]:
    totals = usage.totals
    efficiency, cores = totals.cpu_efficiency, min((a.cpus for a in totals.attempts), default=1)
    if efficiency is None or totals.parts.allocated < _SHORT:
        return
    value = max(1, ceil(MEMORY_MARGIN * efficiency * cores))
    if efficiency < 0.5 and value < cores:
        yield Advice(
            usage.stage.name,
            "cpus",
            value,
            f"{efficiency * cores:.1f} of {cores} cores were busy on average",
            f"{totals.core_hours * (1 - value / cores):.1f} core-hours; the last bits of results "
            "depend on the number of cores",
        )
