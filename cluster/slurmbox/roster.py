"""Which daemons a box has, in the order in which they start."""

from dataclasses import dataclass
from pathlib import Path

from .configuration import Record
from .daemons import Daemon, program


@dataclass(frozen=True)
class Roster:
    """The daemons of one box: ``services`` in the order they need each other, and one a node."""

    munged: Daemon
    mariadbd: Daemon
    slurmdbd: Daemon
    slurmctld: Daemon
    slurmds: dict[str, Daemon]

    @property
    def services(self) -> tuple[Daemon, ...]:
        return (self.munged, self.mariadbd, self.slurmdbd, self.slurmctld)

    @property
    def all(self) -> tuple[Daemon, ...]:
        return (*self.services, *self.slurmds.values())

    @property
    def accounting_runs(self) -> bool:
        """Whether a question to the accounting daemon can be answered at all."""
        return all(one.pid() is not None for one in (self.munged, self.mariadbd, self.slurmdbd))

    @property
    def controller_runs(self) -> bool:
        """Whether a question to the controller can be answered at all."""
        return all(one.pid() is not None for one in (self.munged, self.slurmctld))


def roster(directory: Path, record: Record) -> Roster:
    """The daemons of the box in ``directory``."""
    ports, names = record.ports, record.settings.node_names
    configuration = f"{directory}/slurm.conf"
    return Roster(
        munged=Daemon("munged", _munged(directory), directory, socket=directory / "munge/socket"),
        mariadbd=Daemon(
            "mariadbd",
            (program("mariadbd"), f"--defaults-file={directory}/mysql/mariadb.conf"),
            directory,
            port=ports.database,
        ),
        slurmdbd=Daemon("slurmdbd", (program("slurmdbd"), "-D"), directory, port=ports.accounting),
        slurmctld=Daemon(
            "slurmctld",
            (program("slurmctld"), "-D", "-f", configuration),
            directory,
            port=ports.controller,
        ),
        slurmds={
            name: Daemon(
                f"slurmd-{name}",
                (program("slurmd"), "-D", "-f", configuration, "-N", name),
                directory,
                port=port,
            )
            for name, port in zip(names, ports.nodes(len(names)), strict=True)
        },
    )


def _munged(directory: Path) -> tuple[str, ...]:
    return (
        program("munged"),
        "--foreground",
        f"--socket={directory}/munge/socket",
        f"--key-file={directory}/munge/key",
        f"--pid-file={directory}/run/munged.pid",
        f"--seed-file={directory}/munge/seed",
        f"--log-file={directory}/log/munged.log",
    )
