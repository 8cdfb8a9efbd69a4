"""Where work runs and how it survives: executor, signals, memory, checkpoints, ledger, Slurm.

A submission comes down from ``executor`` through ``submitting`` or ``local`` to ``worker`` on a
node; ``execution`` carries an ``attempt`` through from its start to its end, and ``aftermath`` and
``watching`` see to what follows it. They stand on ``memory``, ``checkpoints`` and ``stopping``,
which see to one kind of trouble each, on the ``records`` of members, and on what the ``scheduler``
says. ``distributed`` is for members of several ranks, ``accounts`` tells what a run was given and
used, and ``slurmbox`` is a Slurm of one machine.

Names are loaded when they are first used: a command that needs no tensor imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.attempt import Attempt, Interrupted
    from cluster.cause import Budgets, Cause
    from cluster.checkpoints.checkpoint import CheckpointStore
    from cluster.collecting import Collected, collect
    from cluster.distributed.gradients import average_gradients
    from cluster.executor import RobustExecutor
    from cluster.job import RobustJob
    from cluster.memory.accumulator import Accumulator
    from cluster.memory.hostmemory import HostMemory
    from cluster.memory.probing import fit_microbatch
    from cluster.memory.stepping import OptimizerStep
    from cluster.records.fence import Superseded
    from cluster.records.ledger import Ledger
    from cluster.records.member import Member
    from cluster.stopping.shielding import shielded

_HOMES = {
    "Accumulator": "memory.accumulator",
    "Attempt": "attempt",
    "Budgets": "cause",
    "Cause": "cause",
    "CheckpointStore": "checkpoints.checkpoint",
    "Collected": "collecting",
    "HostMemory": "memory.hostmemory",
    "Interrupted": "attempt",
    "Ledger": "records.ledger",
    "Member": "records.member",
    "OptimizerStep": "memory.stepping",
    "RobustExecutor": "executor",
    "RobustJob": "job",
    "average_gradients": "distributed.gradients",
    "fit_microbatch": "memory.probing",
    "shielded": "stopping.shielding",
    "Superseded": "records.fence",
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
