"""What runs on the node: one attempt of one member.

``python -m cluster.worker RUN STAGE INDEX``, where INDEX is added to Slurm's array index.
"""

import os
import sys
from pathlib import Path

from cluster import signals


def main(arguments: list[str]) -> int:
    """Run one attempt of the member that the arguments and Slurm's array index name."""
    stop = signals.install()
    if "SLURM_JOB_ID" not in os.environ:
        signals.follow_parent()
    # Only now what takes time to import, torch above all: a signal that arrives meanwhile is
    # remembered, where without the handlers it would kill.
    from cluster.execution import execute
    from cluster.stage import Stage

    run, stage, index = arguments
    element = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    return execute(Stage.load(Path(run), stage), int(index) + element, stop, redirect=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
