"""A real Slurm on one machine, with verbs to start it, stop it and break it on purpose."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from . import cgroups, processes
from .clients import Clients
from .configuration import BoxSettings, Record, free_slot, write_configuration
from .daemons import Daemon, stop
from .directory import claim, default_directory, furnish, one_at_a_time
from .errors import SlurmBoxError, SlurmUnavailableError
from .packages import require_available
from .roster import Roster, roster
from .status import BoxStatus, DaemonStatus, NodeStatus
from .steps import end_jobs

# TERM, the five seconds of KillWait, KILL, and a moment for Slurm to notice.
_CANCEL_PATIENCE = 12.0


class SlurmBox:
    """A Slurm cluster of its own on this machine: controller, nodes, accounting.

    It has a partition ``gpu`` (the default) and a partition ``urgent`` whose jobs preempt
    and requeue those of ``gpu``; each node has one GPU in name. Everything it writes is in
    its directory, and it listens on 127.0.0.1 only. Usable as a context manager::

        with SlurmBox("/tmp/box") as box:
            subprocess.run(["sbatch", "job.sh"], env=os.environ | box.environment)

    Args:
        directory: Where it lives; YAOKI_SLURMBOX or /var/lib/yaoki/slurmbox when None.
        settings: Its size, when it starts from nothing; None keeps the size it had last time.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, settings: BoxSettings | None = None
    ) -> None:
        chosen = default_directory() if directory is None else Path(directory)
        self.directory = chosen.absolute()
        self._wanted = settings
        self._clients = Clients(self.directory)

    def __enter__(self) -> "SlurmBox":
        try:
            self.up()
        except SlurmUnavailableError:
            raise
        except BaseException:
            # Nobody will leave a block that was never entered.
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment; jobs inherit it from ``sbatch``."""
        return dict(self._clients.environment)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes: n0, n1, ..."""
        return self._record().settings.node_names

    def up(self, timeout: float = 60.0) -> BoxStatus:
        """Bring the box up, or heal it: what is dead is started, what is down is resumed.

        Nothing happens to a box that is well.

        Args:
            timeout: Seconds after which to give up.

        Raises:
            SlurmUnavailableError: packages are missing, or this process is not root.
            SlurmBoxError: something did not come up; with the end of the log that says why.
        """
        require_available()
        # Looked at before the lock, which another box may hold for as long as it starts.
        if (status := self.status()).ready:
            return status
        with one_at_a_time():
            if (status := self.status()).ready:
                return status
            deadline = time.monotonic() + timeout
            if not status.running:
                self._configure()
            self._start(deadline)
            return self._wait_nodes(self.nodes, deadline)

    def down(self, *, purge: bool = False) -> None:
        """Cancel every job, stop every daemon, and leave no process and no cgroup behind.

        Args:
            purge: Remove the directory too: configuration, logs, job history.
        """
        if Record.read(self.directory) is None:
            return
        require_available()
        with one_at_a_time():
            record = self._record()
            daemons = roster(self.directory, record)
            if daemons.controller_runs:
                # Best effort: whatever the controller says, their processes are ended below.
                with suppress(SlurmBoxError):
                    self._cancel_jobs()
            stop(daemons.slurmds.values())
            for node in record.settings.node_names:
                self._clear(node, record)
            # Each of the others serves those started after it.
            for daemon in reversed(daemons.services):
                stop([daemon])
            if purge:
                shutil.rmtree(self.directory)

    def status(self) -> BoxStatus:
        """What runs, what the nodes do, and whether accounting answers; never raises for a
        box that is down or in pieces."""
        record = Record.read(self.directory)
        if record is None:
            return BoxStatus(self.directory, (), (), None, accounting=False)
        daemons = roster(self.directory, record)
        return BoxStatus(
            self.directory,
            tuple(DaemonStatus(one.name, one.pid()) for one in daemons.all),
            self._node_states(record, daemons),
            record.control.value,
            # Asked only where something can answer: the client would wait for it.
            daemons.accounting_runs and self._clients.accounting_answers(),
        )

    def kill_node(self, node: str) -> None:
        """Lose a node as in a power failure: its daemon and jobs die at once, and the
        controller is told (alone, it would notice after a minute)."""
        record, daemon = self._node(node)
        daemon.kill()
        self._clear(node, record)
        self._clients.set_node(node, "down", "killed on purpose")

    def restore_node(self, node: str, timeout: float = 30.0) -> BoxStatus:
        """Bring a lost node back into service, and wait until it is."""
        _, daemon = self._node(node)
        deadline = time.monotonic() + timeout
        daemon.start()
        daemon.wait_ready(deadline)
        return self._wait_nodes((node,), deadline)

    def restart_controller(self, timeout: float = 30.0) -> BoxStatus:
        """Stop the controller and start it again; jobs run on, clients see it missing."""
        deadline = time.monotonic() + timeout
        controller = roster(self.directory, self._record()).slurmctld
        stop([controller])
        controller.start()
        controller.wait_ready(deadline)
        return self._wait_nodes(self.nodes, deadline)

    def _record(self) -> Record:
        record = Record.read(self.directory)
        if record is None:
            raise SlurmBoxError(
                f"there is no Slurm box in {self.directory}: `yaoki slurmbox up` makes one"
            )
        return record

    def _node(self, name: str) -> tuple[Record, Daemon]:
        record = self._record()
        slurmds = roster(self.directory, record).slurmds
        if name not in slurmds:
            known = ", ".join(slurmds)
            raise ValueError(f"the box in {self.directory} has the nodes {known}, not {name!r}")
        return record, slurmds[name]

    def _configure(self) -> None:
        """Choose ports and write every file: only while nothing of the box runs."""
        before = Record.read(self.directory)
        settings = self._wanted or (before.settings if before else BoxSettings())
        control = settings.memory_control or cgroups.detect()
        claim(self.directory)
        record = Record(free_slot(before.slot if before else 0), settings, control)
        # First of all, so that a directory that was only half made is known for a box's.
        record.write(self.directory)
        furnish(self.directory, settings.node_names)
        write_configuration(self.directory, record)

    def _start(self, deadline: float) -> None:
        daemons = roster(self.directory, self._record())
        for daemon in daemons.services:
            daemon.start()
            daemon.wait_ready(deadline)
            if daemon is daemons.slurmdbd:
                self._clients.register_cluster(deadline)
        for daemon in daemons.slurmds.values():
            daemon.start()
        for daemon in daemons.slurmds.values():
            daemon.wait_ready(deadline)

    def _wait_nodes(self, names: tuple[str, ...], deadline: float) -> BoxStatus:
        """Resume the named nodes until all of them work."""
        daemons = roster(self.directory, self._record())
        while True:
            status = self.status()
            waiting = [node for node in status.nodes if node.name in names and not node.works]
            if not waiting and status.accounting:
                return status
            for daemon in (*daemons.services, *(daemons.slurmds[name] for name in names)):
                if daemon.pid() is None:
                    raise daemon.failure("died while the nodes were coming into service")
            if time.monotonic() > deadline:
                raise _slow(daemons, waiting)
            for node in waiting:
                if node.state.startswith(("down", "drain", "fail")):
                    self._clients.set_node(node.name, "resume", "")
            time.sleep(0.1)

    def _cancel_jobs(self) -> None:
        """Cancel every job, and wait for the end of those that ran."""
        deadline = time.monotonic() + _CANCEL_PATIENCE
        jobs = self._clients.jobs()
        if jobs:
            self._clients.cancel(jobs)
        while jobs and time.monotonic() < deadline:
            time.sleep(0.2)
            # A job may answer TERM by putting itself back into the queue.
            self._clients.cancel(jobs, "--state=PENDING")
            jobs = self._clients.jobs()

    def _clear(self, node: str, record: Record) -> None:
        """End what runs on a node whose daemon is dead, and remove its cgroups."""
        end_jobs(self.directory, node, record.ports.job_numbers)
        others = any(
            Path(arguments[0]).name == "slurmd" and arguments[-2:] == ["-N", node]
            for pid in processes.running()
            if (arguments := processes.arguments(pid))
        )
        cgroups.remove_groups(node, record.ports.job_numbers, alone=not others)

    def _node_states(self, record: Record, daemons: Roster) -> tuple[NodeStatus, ...]:
        try:
            if daemons.controller_runs:
                return self._clients.nodes()
        except SlurmBoxError:
            # It runs and does not answer (yet): that is a state to report, not an error.
            pass
        return tuple(NodeStatus(name, "unknown") for name in record.settings.node_names)


def _slow(daemons: Roster, waiting: list[NodeStatus]) -> SlurmBoxError:
    if not waiting:
        return daemons.slurmdbd.failure("did not answer sacctmgr in time")
    states = ", ".join(f"{node.name} is {node.state}" for node in waiting)
    slurmd = daemons.slurmds[waiting[0].name]
    return slurmd.failure(f"did not come into service in time ({states})")
