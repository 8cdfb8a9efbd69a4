"""What runs on the node: one attempt of one member.

``python -m cluster.worker RUN STAGE INDEX``, where INDEX is added to Slurm's array index.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.environment import LAUNCHER
from cluster.stopping import shielding, signals

if TYPE_CHECKING:
    from cluster.stage import Stage


def main(arguments: list[str]) -> int:
    """Run one attempt of the member that the arguments and Slurm's array index name."""
    stop = signals.install()
    # Taken out: what this process starts has another parent.
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is not None:
        signals.follow_parent(int(launcher))
    # Only now what takes time to import, torch above all: a signal that arrives meanwhile is
    # remembered, where without the handlers it would kill.
    from cluster.stage import Stage

    run, name, index = arguments
    stage = Stage.load(Path(run), name)
    # Last, so that a folder named like one of our packages, beside the user's script, hides none.
    sys.path.extend(place for place in stage.search_path if place not in sys.path)
    element = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    member = int(index) + element
    status = _run_rank(stage, member, stop) if stage.tasks > 1 else _run(stage, member, stop)
    if stop:
        shielding.dismiss_children()
    return status


def _run(stage: "Stage", member: int, stop: signals.StopFlag) -> int:
    from cluster.execution import execute

    return execute(stage, member, stop, redirect=True)


def _run_rank(stage: "Stage", member: int, stop: signals.StopFlag) -> int:
    from cluster.distributed.leaving import Leaving

    leaving = Leaving.prepare()
    from cluster.distributed.execution import execute_rank

    leaving.status = execute_rank(stage, member, stop)
    return leaving.status


if __name__ == "__mp_main__":  # a child that multiprocessing has spawned imports this module first
    shielding.shield_forks()
    shielding.shield(os.getppid(), spawned=True)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
