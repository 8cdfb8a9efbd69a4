"""What the members of a run were given, and what came of it; apart from how it is shown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.accounts.timeline import Parts, total
from cluster.cause import Cause
from cluster.stage import Stage


@dataclass(frozen=True)
class AttemptUsage:
    """What one attempt was given and used.

    Attributes:
        number: 1 for the member's first.
        cause: Why it ended, or None where that was not noted (yet).
        parts: Where its time went.
        started: When it was given its resources, in seconds since the epoch.
        estimated: Whether nobody noted its end: it is taken to be the last sign of life.
        waited: Seconds in the queue before it, or None where nobody knows.
        cpus: Cores.
        gpus: GPUs, or None where nobody knows.
        limit: Its time limit in seconds, or None.
        memory: What it was given on a node, in MiB, or None.
        peak: The most memory that was seen in use on a node, in MiB, or None.
        sampled: Whether Slurm saw that, and so all processes; otherwise only the attempt's own
            process was looked at.
        cpu_seconds: Processor time, or None.
        microbatch: The microbatch that it began with and the one that it ended with, if any.
        overdue: What the ledger holds of a stop that was not answered in time, if any.
    """

    number: int
    cause: Cause | None
    parts: Parts
    started: float = 0.0
    estimated: bool = False
    waited: float | None = None
    cpus: int = 1
    gpus: int | None = None
    limit: float | None = None
    memory: int | None = None
    peak: float | None = None
    sampled: bool = False
    cpu_seconds: float | None = None
    microbatch: tuple[int, int] | None = None
    overdue: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Totals:
    """What some attempts come to together.

    Args:
        attempts: The attempts.
    """

    attempts: Sequence[AttemptUsage]

    @cached_property
    def parts(self) -> Parts:
        """Where their time went."""
        return total(attempt.parts for attempt in self.attempts)

    @property
    def causes(self) -> Counter[str]:
        """How often each cause ended one before its member was done."""
        ended = (a.cause for a in self.attempts if a.cause not in (None, Cause.FINISHED))
        return Counter(str(cause) for cause in ended)

    @property
    def core_hours(self) -> float:
        """Cores times hours."""
        return sum(a.cpus * a.parts.allocated for a in self.attempts) / 3600

    @property
    def gpu_hours(self) -> float | None:
        """GPUs times hours, None where nobody knows."""
        known = [a.gpus * a.parts.allocated for a in self.attempts if a.gpus is not None]
        return sum(known) / 3600 if known else None

    @property
    def cpu_efficiency(self) -> float | None:
        """Processor time over cores times time, of the attempts that told theirs."""
        told = [a for a in self.attempts if a.cpu_seconds is not None]
        given = sum(a.cpus * a.parts.allocated for a in told)
        return sum(a.cpu_seconds or 0.0 for a in told) / given if given > 0 else None

    @property
    def memory(self) -> int | None:
        """The most memory that one was given on a node, in MiB."""
        return max((a.memory for a in self.attempts if a.memory is not None), default=None)

    @property
    def peak(self) -> float | None:
        """The most memory that was seen in use on a node, in MiB."""
        return max((a.peak for a in self.attempts if a.peak is not None), default=None)

    @property
    def waited(self) -> float:
        """Seconds in the queue, as far as they are known."""
        return sum(a.waited or 0.0 for a in self.attempts)

    @property
    def waste(self) -> dict[str, float]:
        """Seconds that were not useful, by reason, most first: all parts but ``useful``."""
        seconds: dict[str, float] = {}
        for attempt in self.attempts:
            parts, end = attempt.parts, attempt.cause or "an end that nobody noted"
            for reason, part in (
                (f"redone after {end}", parts.lost),
                ("start-up", parts.startup),
                ("saving", parts.saving),
                ("leaving", parts.rest),
            ):
                seconds[reason] = seconds.get(reason, 0.0) + part
        most_first = sorted(seconds.items(), key=lambda item: -item[1])
        return {reason: part for reason, part in most_first if part > 0}


@dataclass(frozen=True)
class MemberUsage:
    """What one member was given and used.

    Attributes:
        stage: Its stage.
        index: Its global index.
        attempts: Its attempts, oldest first.
        done: The share of its steps that is done, 0 to 1, or None where nobody knows.
    """

    stage: str
    index: int
    attempts: Sequence[AttemptUsage]
    done: float | None = None

    @property
    def name(self) -> str:
        """How commands and logs call it, e.g. ``train/0002``."""
        return f"{self.stage}/{self.index:04d}"

    @property
    def finished(self) -> bool:
        """Whether its last attempt finished it."""
        return bool(self.attempts) and self.attempts[-1].cause is Cause.FINISHED

    @property
    def totals(self) -> Totals:
        """What its attempts come to."""
        return Totals(self.attempts)


@dataclass(frozen=True)
class StageUsage:
    """What the members of a stage were given and used."""

    stage: Stage
    members: Sequence[MemberUsage]

    @property
    def totals(self) -> Totals:
        """What the attempts of all its members come to."""
        return Totals([attempt for member in self.members for attempt in member.attempts])


@dataclass(frozen=True)
class RunUsage:
    """What a run was given and used.

    Attributes:
        run: The run directory.
        stages: Its stages, in order.
        accounting: Why Slurm's accounting told nothing, or empty where it told what it knows or
            there was nothing to ask it.
    """

    run: Path
    stages: Sequence[StageUsage]
    accounting: str = ""
