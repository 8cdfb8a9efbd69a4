"""Slurm's own commands, run against one box."""

import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .configuration import CLUSTER
from .daemons import program
from .errors import SlurmBoxError
from .status import NodeStatus

_PATIENCE = 30.0


class Clients:
    """The commands of the box in ``directory``, each answering with what it printed."""

    def __init__(self, directory: Path) -> None:
        self.environment = {"SLURM_CONF": f"{directory}/slurm.conf"}

    def run(self, *command: str) -> str:
        """Output of a command.

        Raises:
            SlurmBoxError: it failed or did not answer; with what it said.
        """
        try:
            done = subprocess.run(
                [program(command[0]), *command[1:]],
                # Slurm's own variables of the caller (in a job, say) would redirect the command.
                env=_without_slurm(os.environ) | self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except (subprocess.TimeoutExpired, FileNotFoundError) as error:
            raise SlurmBoxError(f"`{' '.join(command)}`: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise SlurmBoxError(
                f"`{' '.join(command)}` ended with exit code {done.returncode}: {said}"
            )
        return done.stdout

    def nodes(self) -> tuple[NodeStatus, ...]:
        """Every node and its state."""
        rows = self.run("sinfo", "-h", "-p", "gpu", "-N", "-o", "%N %T").splitlines()
        return tuple(NodeStatus(*row.split()) for row in rows)

    def accounting_answers(self) -> bool:
        """Whether the accounting daemon answers and knows the cluster."""
        try:
            known = self.run("sacctmgr", "-nP", "list", "cluster", "format=cluster")
        except SlurmBoxError:
            return False
        return CLUSTER in known.split()

    def register_cluster(self, deadline: float) -> None:
        """Tell a new database of the cluster; an old one knows it.

        An accounting daemon whose database was started again looks for it only now and then.

        Args:
            deadline: When to give up, on the monotonic clock.

        Raises:
            SlurmBoxError: The database was not there in time.
        """
        while not self.accounting_answers():
            try:
                self.run("sacctmgr", "-i", "add", "cluster", CLUSTER)
            except SlurmBoxError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def set_node(self, node: str, state: str, reason: str) -> None:
        """Change the state of a node, as its administrator would."""
        self.run("scontrol", "update", f"nodename={node}", f"state={state}", f"reason={reason}")

    def jobs(self) -> list[str]:
        """Numbers of the jobs that are not over, arrays as one."""
        return sorted(set(self.run("squeue", "-h", "-a", "-o", "%F").split()))

    def cancel(self, jobs: list[str], *options: str) -> None:
        """Cancel those of the jobs that can still be cancelled."""
        # It fails when any one of them ended meanwhile, even so quietly.
        with suppress(SlurmBoxError):
            self.run("scancel", "--quiet", *options, *jobs)


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    prefixes = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SCANCEL_", "SCONTROL_", "SACCT_")
    return {key: value for key, value in environment.items() if not key.startswith(prefixes)}
