"""Where work runs and how it survives: executor, signals, memory, checkpoints, ledger, Slurm.

Names are loaded when they are first used: a command that needs no tensor imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.accumulator import Accumulator
    from cluster.attempt import Attempt, Interrupted
    from cluster.cause import Budgets, Cause
    from cluster.checkpoint import CheckpointStore
    from cluster.collecting import Collected, collect
    from cluster.distributed.gradients import average_gradients
    from cluster.executor import RobustExecutor
    from cluster.fence import Superseded
    from cluster.hostmemory import HostMemory
    from cluster.job import RobustJob
    from cluster.ledger import Ledger
    from cluster.member import Member
    from cluster.probing import fit_microbatch
    from cluster.shielding import shielded
    from cluster.stepping import OptimizerStep

_HOMES = {
    "Accumulator": "accumulator",
    "Attempt": "attempt",
    "Budgets": "cause",
    "Cause": "cause",
    "CheckpointStore": "checkpoint",
    "Collected": "collecting",
    "HostMemory": "hostmemory",
    "Interrupted": "attempt",
    "Ledger": "ledger",
    "Member": "member",
    "OptimizerStep": "stepping",
    "RobustExecutor": "executor",
    "RobustJob": "job",
    "average_gradients": "distributed.gradients",
    "fit_microbatch": "probing",
    "shielded": "shielding",
    "Superseded": "fence",
    "collect": "collecting",
}

__all__ = [
    "Accumulator",
    "Attempt",
    "Budgets",
    "Cause",
    "CheckpointStore",
    "Collected",
    "HostMemory",
    "Interrupted",
    "Ledger",
    "Member",
    "OptimizerStep",
    "RobustExecutor",
    "RobustJob",
    "Superseded",
    "average_gradients",
    "collect",
    "fit_microbatch",
    "shielded",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cluster' has no attribute '{name}'")
    return getattr(import_module(f"cluster.{_HOMES[name]}"), name)
