"""A stage: an array of members that run the same function, and the rules they live by."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.cause import Budgets, Cause
from cluster.memory.hostmemory import HostMemory
from cluster.records.files import write_atomic
from cluster.records.history import History, Reading
from cluster.records.member import Member
from cluster.records.submissions import Submissions


class RunError(Exception):
    """A run directory is missing, is not one, or belongs to something else."""


@dataclass(frozen=True)
class Stage:
    """An array of members, as it is written into the run directory.

    Every process that has to decide about a member (the worker on the node, the exit trap of the
    batch script, a command typed a week later) reads the same rules from here.

    Args:
        run: The run directory.
        name: The stage's name, one path component.
        order: Its place among the stages of the run, from 0.
        members: How many members it has.
        cpus: Cores of one task.
        nodes: Nodes of one member.
        tasks_per_node: Tasks of one member on each of its nodes; each is a rank.
        budgets: How often each cause may start a member again.
        checkpoint_seconds: The longest time between saves, or None: see
            :mod:`cluster.checkpoints.interval`.
        keep: Checkpoints to keep.
        keep_bytes: Bytes that they may take together; two are kept in any case.
        signal_delay: Seconds before the time limit at which a member is told to leave.
        host_memory: What gives way where a member exceeds its memory.
        search_path: Where the submitting process found modules; workers look there last.

    Raises:
        ValueError: A number is too small.
    """

    run: Path
    name: str
    order: int = 0
    members: int = 0
    cpus: int = 1
    nodes: int = 1
    tasks_per_node: int = 1
    budgets: Budgets = field(default_factory=Budgets)
    checkpoint_seconds: float | None = None
    keep: int = 2
    keep_bytes: int | None = None
    signal_delay: int = 90
    host_memory: HostMemory = field(default_factory=HostMemory)
    search_path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Told to who submits, not to the member when it first saves.
        for name, least in {"checkpoint_seconds": 0, "keep": 2, "keep_bytes": 0}.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name}: expected at least {least}, found {value}")

    @property
    def directory(self) -> Path:
        """Where its members lie."""
        return self.run / "members" / self.name

    @property
    def tasks(self) -> int:
        """How many processes each member has."""
        return self.nodes * self.tasks_per_node

    def member(self, index: int) -> Member:
        """One of its members.

        Raises:
            RunError: There is no such member.
        """
        if not 0 <= index < self.members:
            raise RunError(
                f"stage '{self.name}' has members 0 to {self.members - 1}, found {index}"
            )
        return Member(self.run, self.name, index)

    def __iter__(self) -> Iterator[Member]:
        return (Member(self.run, self.name, index) for index in range(self.members))

    @property
    def submissions(self) -> Submissions:
        """What was noted of many of its members at once."""
        return Submissions(self.directory)

    def readings(self) -> Iterator[tuple[Member, Reading]]:
        """Every member with its ledger as it stands now; each file is read once."""
        ledgers = [(member, member.ledger) for member in self]
        own = [ledger.own_lines() for _, ledger in ledgers]
        submissions = self.submissions.read()
        return (
            (member, ledger.read(lines, submissions))
            for (member, ledger), lines in zip(ledgers, own, strict=True)
        )

    def save(self) -> None:
        """Write the rules durably."""
        self.directory.mkdir(parents=True, exist_ok=True)
        record = {key: value for key, value in asdict(self).items() if key != "run"}
        write_atomic(self.directory / "stage.json", json.dumps(record, indent=1).encode())

    @classmethod
    def load(cls, run: Path, name: str) -> "Stage":
        """Read the rules of a stage.

        Raises:
            RunError: There is no such stage.
        """
        path = run / "members" / name / "stage.json"
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            record["budgets"] = Budgets(**record["budgets"])
            record["host_memory"] = HostMemory(**record.get("host_memory", {}))
            record["search_path"] = tuple(record["search_path"])
            return cls(run=run, **record)
        except FileNotFoundError as error:
            found = ", ".join(stage.name for stage in load_stages(run)) or "none"
            raise RunError(f"{run}: expected a stage '{name}', found: {found}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: expected a stage as this version of yaoki writes it, found something "
                f"else ({error!r}). Start again in another directory."
            ) from error


def load_stages(run: Path) -> list[Stage]:
    """All stages of a run that have been laid out, in order."""
    names = (path.parent.name for path in (run / "members").glob("*/stage.json"))
    return sorted((Stage.load(run, name) for name in names), key=lambda stage: stage.order)


def wants_another_attempt(member: Member, budgets: Budgets) -> bool:
    """Whether a member whose last attempt has ended should be started again.

    Never while an attempt is open, after it finished, or when the user has cancelled it.
    """
    return goes_on(Reading(member.ledger.events()), budgets)


def goes_on(ledger: History, budgets: Budgets) -> bool:
    """The same, from what is known of the member."""
    attempts = ledger.attempts()
    if not attempts or not ledger.wanted():
        return False
    cause = attempts[-1].cause
    if cause in (None, Cause.FINISHED, Cause.CANCELLED):
        return False
    if cause is Cause.HOST_OOM and not ledger.remedied(attempts[-1].number):
        return False  # the same memory is not enough for the same batch a second time
    return budgets.allows(cause, ledger.spent())


def verdict(member: Member, budgets: Budgets) -> str | None:
    """Which budget keeps a member from being started again, in words; None where none does."""
    attempts = member.ledger.attempts()
    cause = attempts[-1].cause if attempts else None
    if cause in (None, Cause.FINISHED, Cause.CANCELLED) or not member.ledger.wanted():
        return None
    if budgets.allows(cause, member.ledger.spent()):
        return None
    return f"the retry budget for '{cause}' ({getattr(budgets, cause)}) is used up"


def over_budget(member: Member, budgets: Budgets) -> list[Cause]:
    """Causes that have started the member more often than they may.

    Slurm starts a preempted job or one from a dead node again by itself, without asking; this is
    where such a chain ends.
    """
    spent = member.ledger.spent()
    return [cause for cause, count in spent.items() if count > int(getattr(budgets, cause, 0))]
