"""A plan: a job resolved into stages, members, resources and digests, before anything runs."""

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.files import write_atomic
from cluster.quantities import MemorySize, Walltime
from cluster.stage import RunError
from pipelines.config import Config, digest

#: How a stage waits for the one before it: for all of it, member for member, or for its end,
#: however it ended.
Wait = Literal["all", "each", "end"]


class Resources(Config):
    """What one member of a stage asks of Slurm.

    Attributes:
        cpus: Cores.
        gpus: GPUs.
        memory: Memory of the host.
        time: Limit of one attempt; a member may use many attempts.
        partition: Slurm partition, or the cluster's default.
        account: Slurm account, or the user's default.
        qos: Quality of service, or the user's default.
        parallelism: Members at once, or no limit.
        signal_delay: Seconds before the limit at which the member is told to leave.
        checkpoint_seconds: Time between saves.
    """

    cpus: int = 1
    gpus: int = 0
    memory: MemorySize = MemorySize(4096)
    time: Walltime = Walltime(3600)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    parallelism: int | None = None
    signal_delay: int = 90
    checkpoint_seconds: float = 60.0

    def parameters(self, name: str) -> dict[str, Any]:
        """The same as submitit's parameters."""
        optional = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "gpus_per_node": self.gpus or None,
        }
        return {
            "name": name,
            "timeout_min": self.time.minutes,
            "cpus_per_task": self.cpus,
            "mem_gb": self.memory.mebibytes / 1024,
            "slurm_signal_delay_s": self.signal_delay,
            "slurm_array_parallelism": self.parallelism or 0,
        } | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True)
class StagePlan:
    """One array of the plan.

    Attributes:
        name: The stage's name.
        function: What each member calls, as ``module:function``; it is given the configuration.
        members: How many.
        resources: Of one member.
        wait: How it waits for the stage before it.
    """

    name: str
    function: str
    members: int
    resources: Resources
    wait: Wait = "all"


@dataclass(frozen=True)
class Plan:
    """A job resolved.

    Attributes:
        job: The workload's name.
        config: Its configuration.
        stages: What runs, in order.
        runs: The directory under which the run directory lies.
    """

    job: str
    config: Config
    stages: Sequence[StagePlan]
    runs: Path

    @property
    def digest(self) -> str:
        """What is asked for, in 64 hexadecimal digits: equal plans have equal digests."""
        return hashlib.sha256(f"{self.job}:{digest(self.config)}".encode()).hexdigest()

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.runs.absolute() / f"{self.job}-{self.digest[:10]}"

    def record(self) -> dict[str, Any]:
        """The plan as plain values, as written to ``plan.yaml``."""
        return {
            "job": self.job,
            "digest": self.digest,
            "yaoki": version("yaoki"),
            "git": git_state(),
            "stages": [
                {
                    "name": stage.name,
                    "function": stage.function,
                    "members": stage.members,
                    "wait": stage.wait,
                    "resources": stage.resources.model_dump(mode="json"),
                }
                for stage in self.stages
            ],
            "config": self.config.model_dump(mode="json"),
        }

    def save(self) -> None:
        """Write ``plan.yaml``, unless the run directory holds this plan already.

        Raises:
            RunError: The directory holds another plan.
        """
        path = self.directory / "plan.yaml"
        if path.exists():
            check_digest(self.directory, self.digest)
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(path, yaml.safe_dump(self.record(), sort_keys=False).encode())


def load_plan(run: Path) -> Mapping[str, Any]:
    """Read the plan of a run directory as plain values.

    Raises:
        RunError: The directory is missing, is no run, or its plan cannot be read.
    """
    path = run / "plan.yaml"
    if not path.exists():
        raise RunError(
            f"{run}: expected a run directory, with a plan.yaml; found "
            f"{'none there' if run.is_dir() else 'no such directory'}. 'yaoki run' makes one."
        )
    record = yaml.safe_load(path.read_text())
    if not isinstance(record, dict) or not {"job", "digest", "config"} <= record.keys():
        raise RunError(f"{path}: expected a plan with job, digest and config; found another file")
    return record


def check_digest(run: Path, expected: str) -> None:
    """Make sure that a run directory belongs to a plan.

    Raises:
        RunError: It is another job's.
    """
    found = load_plan(run)
    if found["digest"] != expected:
        raise RunError(
            f"{run}: expected the run of plan {expected[:10]}, found one of job "
            f"'{found['job']}', plan {found['digest'][:10]}. Give another directory with --runs."
        )


def git_state() -> dict[str, Any]:
    """The commit that the code is at, and whether it has changes beside; empty outside git."""
    here = Path(__file__).parent
    try:
        sha = _git(here, "rev-parse", "HEAD")
        return {"sha": sha, "dirty": bool(_git(here, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
