"""A plan: a job resolved into stages, members, resources and digests, before anything runs."""

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, RootModel

from cluster.cause import Budgets
from cluster.memory.hostmemory import HostMemory, Order
from cluster.records.files import write_atomic
from cluster.scheduler.quantities import MemorySize, Walltime
from cluster.stage import RunError
from pipelines.config import Config, digest

#: How a stage waits for the one before it: for all of it, member for member, or for its end,
#: however it ended.
Wait = Literal["all", "each", "end"]

#: Sections of a configuration that say where and how a job runs, and not what it computes.
CIRCUMSTANCES = ("resources", "tracking")


class HostMemoryRules(Config):
    """What gives way where a member exceeds its memory; see :class:`cluster.HostMemory`.

    Attributes:
        order: Whether the microbatch is halved or more memory asked for, and which first.
        growth: The factor by which the memory grows.
        memory_cap: The most memory, as a multiple of ``memory``.
    """

    order: Order = HostMemory.order
    growth: Annotated[float, Field(gt=1, allow_inf_nan=False)] = HostMemory.growth
    memory_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] = HostMemory.memory_cap


class RetryBudgets(Config):
    """How often each cause may start a member again; see :class:`cluster.Budgets`."""

    timeout: NonNegativeInt = Budgets.timeout
    preemption: NonNegativeInt = Budgets.preemption
    node_failure: NonNegativeInt = Budgets.node_failure
    killed: NonNegativeInt = Budgets.killed
    device_oom: NonNegativeInt = Budgets.device_oom
    host_oom: NonNegativeInt = Budgets.host_oom
    error: NonNegativeInt = Budgets.error


class Resources(Config):
    """What one member of a stage asks of Slurm, and how it is to survive there.

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
        checkpoint_seconds: The longest time between saves; they come sooner where it pays. By
            default it follows from what they cost and how often faults come.
        keep: Checkpoints to keep.
        keep_bytes: What they may take together; two are kept in any case.
        host_memory: What gives way where a member exceeds its memory.
        budgets: How often each cause may start it again.
    """

    cpus: PositiveInt = 1
    gpus: NonNegativeInt = 0
    memory: MemorySize = MemorySize(4096)
    time: Walltime = Walltime(3600)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    parallelism: PositiveInt | None = None
    signal_delay: PositiveInt = 90
    checkpoint_seconds: PositiveFloat | None = None
    keep: Annotated[int, Field(ge=2)] = 2
    keep_bytes: MemorySize | None = None
    host_memory: HostMemoryRules = HostMemoryRules()
    budgets: RetryBudgets = RetryBudgets()

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

    def rules(self) -> dict[str, Any]:
        """The rules that members live by, as a :class:`cluster.RobustExecutor` takes them."""
        return {
            "checkpoint_seconds": self.checkpoint_seconds,
            "keep": self.keep,
            "keep_bytes": None if self.keep_bytes is None else self.keep_bytes.bytes,
            "host_memory": HostMemory(**dict(self.host_memory)),
            "budgets": Budgets(**dict(self.budgets)),
        }


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
        """What is to be computed, in 64 hexadecimal digits: the job and its :func:`identity`."""
        return hashlib.sha256(f"{self.job}:{identity(self.config)}".encode()).hexdigest()

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
        """Write ``plan.yaml``, unless the run directory holds the same already.

        The plan of a run that is to go on with other resources or tracking takes the place of
        the one that is there.

        Raises:
            RunError: The directory holds another plan, or something else under its name.
        """
        path = self.directory / "plan.yaml"
        record = self.record()
        if path.exists():
            check_digest(self.directory, self.digest)
            found = load_plan(self.directory)
            if all(found.get(key) == record[key] for key in ("stages", "config")):
                return
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(path, yaml.safe_dump(record, sort_keys=False).encode())


def identity(config: Config) -> str:
    """Digest of what a configuration computes: all of it but :data:`CIRCUMSTANCES`.

    Runs of one identity are one run: a longer walltime, more memory or another tracker continue
    it and do not start it anew. The number of cores is left out as well, although threads share
    out sums and so decide the last bits: a member is equal bit for bit to another of its identity
    only if both had the same ``cpus`` and the same kind of device.
    """
    values = config.model_dump(mode="json", exclude=set(CIRCUMSTANCES))
    return digest(_Values(values))


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
    try:
        record = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"{path}: expected a plan in YAML, but it cannot be read: {reason}"
        ) from error
    if not _is_plan(record):
        raise RunError(f"{path}: expected a plan with job, digest and config; found another file")
    plan: Mapping[str, Any] = record
    return plan


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


def git_state(source: Path | None = None) -> dict[str, Any] | None:
    """The git state of a directory; default: this code's.

    Returns:
        ``revision``, 40 hexadecimal digits, and ``dirty``, whether there are changes beside it;
        None outside a work tree, before its first commit, or without git.
    """
    here = source or Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_git(here, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


class _Values(RootModel[dict[str, Any]]):
    # As in Config: without it infinity, minus infinity and NaN would all become null.
    model_config = ConfigDict(ser_json_inf_nan="constants")


def _is_plan(record: object) -> bool:
    wanted = {"job": str, "digest": str, "config": dict}
    return isinstance(record, dict) and all(
        isinstance(record.get(key), kind) for key, kind in wanted.items()
    )
