"""What a box is made of: its size, its ports, and the configuration files it runs from."""

import json
import secrets
import shutil
import socket
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from string import Template

from .cgroups import MemoryControl, swap_is_limitable
from .errors import SlurmBoxError

CLUSTER = "yaoki"

# Below the kernel's ephemeral range (32768 and up), away from Slurm's own 6817-6819.
FIRST_PORT = 17000
PORTS_PER_SLOT = 40
SLOTS = 100
JOBS_PER_SLOT = 100_000


@dataclass(frozen=True)
class BoxSettings:
    """Size of a box. Nodes may promise more than the machine has; nothing enforces cores.

    Args:
        nodes: Number of nodes, named n0, n1, ...; one (fake) GPU each.
        cpus: Cores that each node offers to the scheduler.
        memory: Memory that each node offers, in MB.
        memory_control: What limits the memory of a job; None takes the best this machine has.
    """

    nodes: int = 4
    cpus: int = 4
    memory: int = 16384
    memory_control: MemoryControl | None = None

    def __post_init__(self) -> None:
        limit = PORTS_PER_SLOT - 3
        if not 1 <= self.nodes <= limit:
            raise ValueError(f"a box has 1 to {limit} nodes, not {self.nodes}")
        if self.cpus < 1 or self.memory < self.cpus:
            raise ValueError(
                f"a node needs at least 1 CPU and 1 MB a CPU, not {self.cpus} CPUs "
                f"and {self.memory} MB"
            )

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"n{index}" for index in range(self.nodes))


@dataclass(frozen=True)
class Ports:
    """A slot: a block of TCP ports and a range of job numbers that no other box uses.

    The job numbers matter because cgroups are named after node and job, so that
    two boxes with the same job number would share a cgroup.
    """

    slot: int

    @property
    def database(self) -> int:
        return FIRST_PORT + self.slot * PORTS_PER_SLOT

    @property
    def accounting(self) -> int:
        return self.database + 1

    @property
    def controller(self) -> int:
        return self.database + 2

    def nodes(self, count: int) -> range:
        return range(self.database + 3, self.database + 3 + count)

    @property
    def job_numbers(self) -> range:
        start = self.slot * JOBS_PER_SLOT + 1
        return range(start, start + JOBS_PER_SLOT)


@dataclass(frozen=True)
class Record:
    """What a box remembers of itself between two commands, in ``box.json``."""

    slot: int
    settings: BoxSettings
    control: MemoryControl

    @property
    def ports(self) -> Ports:
        return Ports(self.slot)

    def write(self, directory: Path) -> None:
        _write(directory / "box.json", json.dumps(asdict(self), indent=2) + "\n", 0o644)

    @classmethod
    def read(cls, directory: Path) -> "Record | None":
        """The record of the box in ``directory``; None where there never was one.

        Raises:
            SlurmBoxError: the file is there and cannot be read, or is not such a record.
        """
        path = directory / "box.json"
        try:
            content = json.loads(path.read_text())
            settings = content["settings"]
            if (wanted := settings["memory_control"]) is not None:
                settings["memory_control"] = MemoryControl(wanted)
            control = MemoryControl(content["control"])
            return cls(content["slot"], BoxSettings(**settings), control)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SlurmBoxError(f"cannot read the record of the Slurm box: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SlurmBoxError(
                f"{path} is not the record of a Slurm box ({error!r}). If the directory is a "
                "box's, bring its daemons down by hand, remove the directory and start again."
            ) from error


def free_slot(preferred: int = 0) -> int:
    """The first slot from the preferred one on in which no port is in use.

    Upward first, because the job numbers of a box that moves can only grow.

    Raises:
        SlurmBoxError: every slot has a port in use.
    """
    candidates: list[int] = [*range(preferred, SLOTS), *range(preferred)]
    for slot in candidates:
        first = Ports(slot).database
        if all(_is_free(port) for port in range(first, first + PORTS_PER_SLOT)):
            return slot
    last = FIRST_PORT + SLOTS * PORTS_PER_SLOT - 1
    raise SlurmBoxError(
        f"no block of {PORTS_PER_SLOT} free TCP ports between {FIRST_PORT} and {last} on 127.0.0.1"
    )


def write_configuration(directory: Path, record: Record) -> None:
    """Render every configuration file of the box into ``directory``."""
    password = secrets.token_hex(16)
    values = _values(directory, record) | {"password": password}
    for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
        _write(directory / name, _render(name, values), 0o644)
    _write(directory / "slurmdbd.conf", _render("slurmdbd.conf", values), 0o600)
    _write(directory / "mysql/mariadb.conf", _render("mariadb.conf", values), 0o644)
    accounts = directory / "mysql/init.sql"
    _write(accounts, _accounts(password), 0o600)
    shutil.chown(accounts, user="mysql")


def _values(directory: Path, record: Record) -> dict[str, object]:
    settings, ports, control = record.settings, record.ports, record.control
    limited = control is not MemoryControl.POLLING
    return {
        "cluster": CLUSTER,
        "directory": directory,
        "database_port": ports.database,
        "accounting_port": ports.accounting,
        "controller_port": ports.controller,
        "node_ports": _span(ports.nodes(settings.nodes)),
        "first_job_id": ports.job_numbers.start,
        "nodes": "n" + _span(range(settings.nodes)),
        "cpus": settings.cpus,
        "memory": settings.memory,
        "memory_per_cpu": settings.memory // settings.cpus,
        "proctrack": "proctrack/cgroup" if limited else "proctrack/linuxproc",
        "task_plugin": "task/cgroup" if limited else "task/none",
        "gather_parameters": "NoOverMemoryKill" if limited else "OverMemoryKill",
        "cgroup_plugin": control.value if limited else "autodetect",
        "constrain_swap": "yes" if swap_is_limitable(control) else "no",
        "systemd_line": _systemd_line(control),
    }


def _systemd_line(control: MemoryControl) -> str:
    # Only the v2 plugin talks to systemd, and it refuses to start where there is none.
    without = control is MemoryControl.V2 and not Path("/run/systemd/system").exists()
    return "IgnoreSystemd=yes" if without else ""


def _accounts(password: str) -> str:
    # One statement a line: the server's init file knows no other form.
    return (
        "CREATE DATABASE IF NOT EXISTS slurm_acct;\n"
        f"CREATE OR REPLACE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1';\n"
    )


def _span(numbers: range) -> str:
    return f"[{numbers.start}-{numbers.stop - 1}]"


def _render(name: str, values: dict[str, object]) -> str:
    return Template((resources.files(__package__) / name).read_text()).substitute(values)


def _write(path: Path, text: str, mode: int) -> None:
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_text(text)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the daemons do: a port in TIME_WAIT is free to a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
