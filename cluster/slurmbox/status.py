"""What a box looks like from outside, as data."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# What Slurm calls a node that takes or runs jobs, without the mark of a silent one (``idle*``).
WORKING_STATES = frozenset({"idle", "mixed", "allocated", "completing", "planned", "reserved"})


@dataclass(frozen=True)
class DaemonStatus:
    """One daemon: its process number while it runs."""

    name: str
    pid: int | None

    @property
    def alive(self) -> bool:
        return self.pid is not None


@dataclass(frozen=True)
class NodeStatus:
    """One node, in sinfo's words; ``unknown`` where no controller answers."""

    name: str
    state: str

    @property
    def works(self) -> bool:
        return self.state in WORKING_STATES


@dataclass(frozen=True)
class BoxStatus:
    """The whole box.

    Args:
        directory: Where it lives.
        memory_control: What limits a job's memory; None for a box that never was up.
        accounting: Whether the accounting daemon and its database answer.
    """

    directory: Path
    daemons: tuple[DaemonStatus, ...]
    nodes: tuple[NodeStatus, ...]
    memory_control: str | None
    accounting: bool

    @property
    def ready(self) -> bool:
        """Whether everything runs, answers and takes jobs."""
        daemons = bool(self.daemons) and all(daemon.alive for daemon in self.daemons)
        return daemons and self.accounting and all(node.works for node in self.nodes)

    @property
    def running(self) -> bool:
        """Whether any part of it runs."""
        return any(daemon.alive for daemon in self.daemons)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON knows it."""
        return {
            "directory": str(self.directory),
            "ready": self.ready,
            "memory_control": self.memory_control,
            "accounting": self.accounting,
            "daemons": [asdict(daemon) | {"alive": daemon.alive} for daemon in self.daemons],
            "nodes": [asdict(node) for node in self.nodes],
        }
