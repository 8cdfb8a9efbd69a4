"""Which rank of a member this process is, from the variables that srun sets for every task."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cluster.stage import Stage

#: Variable that names the meeting of the ranks of an attempt, where no job of Slurm's does.
MEETING = "YAOKI_MEETING"

_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """The place of a process among the ranks of its member.

    Attributes:
        rank: Its rank, from 0; rank 0 alone writes.
        ranks: How many there are.
        local_rank: Its number on its node, from 0.
        local_ranks: How many are on its node.
        meeting: A name that all ranks of this attempt know and no other attempt has.
        launcher: The process id of what started the ranks on this machine; None under Slurm.
    """

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    meeting: str
    launcher: int | None = None

    @classmethod
    def of_this_task(cls, stage: Stage) -> Self:
        """The place of this process, which srun or the local launcher has started.

        Raises:
            RuntimeError: There are more or fewer tasks than the stage says, or none started this.
        """
        variables = os.environ
        name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
        found = variables.get(name)
        if found != str(stage.tasks) or "SLURM_PROCID" not in variables:
            raise RuntimeError(
                f"stage '{stage.name}': expected to be one of {stage.tasks} tasks "
                f"(nodes={stage.nodes}, tasks_per_node={stage.tasks_per_node}), found "
                f"{name}={found}. Its ranks have to be started by srun, as the batch script does."
            )
        meeting = variables.get(MEETING)
        return cls(
            int(variables["SLURM_PROCID"]),
            stage.tasks,
            int(variables.get("SLURM_LOCALID", 0)),
            stage.tasks_per_node,
            meeting or _meeting_of_job(),
            os.getppid() if meeting else None,
        )

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.ranks}"


def task_environment(rank: int, ranks: int, meeting: str) -> dict[str, str]:
    """What srun would set for a task, for ranks that are started on this machine."""
    numbers = {"PROCID": rank, "LOCALID": rank, "NTASKS": ranks, "STEP_NUM_TASKS": ranks}
    return {f"SLURM_{name}": str(n) for name, n in numbers.items()} | {MEETING: meeting}


def own_devices(visible: str | None, place: Place) -> str | None:
    """The share of a rank in the GPUs that its node's tasks all see.

    With its own share alone, ``cuda`` is the right device in every rank, and no rank opens a
    context on the GPU of another.

    Args:
        visible: ``CUDA_VISIBLE_DEVICES`` as Slurm set it.
        place: The rank's.

    Returns:
        The new value, or None where there is nothing to share out: Slurm has bound each task to
        its own (``--gpus-per-task``), or there are too few.
    """
    devices = [device for device in (visible or "").split(",") if device]
    share = len(devices) // place.local_ranks
    if place.local_ranks == 1 or share == 0:
        return None
    return ",".join(devices[place.local_rank * share : (place.local_rank + 1) * share])


def take_own_devices(place: Place) -> None:
    """Leave this process its own GPUs alone; to be called before CUDA is used."""
    share = own_devices(os.environ.get(_DEVICES), place)
    if share is not None:
        os.environ[_DEVICES] = share


def _meeting_of_job(variables: Mapping[str, str] = os.environ) -> str:
    # A requeued job keeps its id.
    return f"{variables['SLURM_JOB_ID']}.{variables.get('SLURM_RESTART_COUNT', '0')}"
