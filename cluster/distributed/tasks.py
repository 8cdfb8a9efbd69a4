"""The ranks of a member as processes of this machine: what srun does for a job.

``python -m cluster.distributed.tasks RUN STAGE INDEX`` starts them, hands signals on, ends the
others when one fails, and exits with the highest status.
"""

import math
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from cluster.distributed.place import task_environment
from cluster.environment import LAUNCHER, module_command
from cluster.stage import Stage
from cluster.stopping import signals
from cluster.stopping.deadline import grace_seconds

_POLL_SECONDS = 0.02


class Tasks:
    """Some processes that live and end together.

    Args:
        command: What each of them runs.
        count: How many.
    """

    def __init__(self, command: list[str], count: int) -> None:
        meeting = uuid.uuid4().hex
        environment = os.environ | {LAUNCHER: str(os.getpid())}
        self._processes = [
            subprocess.Popen(command, env=environment | task_environment(rank, count, meeting))
            for rank in range(count)
        ]

    def send(self, number: int) -> None:
        """Send a signal to all that run."""
        for process in self._processes:
            process.send_signal(number)  # looks first whether it is there still

    def wait(self, stop: signals.StopFlag) -> int:
        """Wait for all, handing a stop on; returns the highest exit status, as a shell has it."""
        told, kill_at = False, math.inf
        while None in (statuses := [process.poll() for process in self._processes]):
            if stop and not told:
                told = True
                self.send(stop.signum or signal.SIGTERM)
            if any(statuses) and kill_at == math.inf:
                kill_at = time.monotonic() + grace_seconds(signal.SIGTERM, 0.0)
                self.send(signal.SIGTERM)
            if time.monotonic() > kill_at:
                self.send(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        ended = [process.returncode for process in self._processes]
        return max(128 - status if status < 0 else status for status in ended)


def main(arguments: list[str]) -> int:
    """Run the ranks of the member that the arguments name."""
    stop = signals.install()
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is not None:
        signals.follow_parent(int(launcher))
    run, name, _ = arguments
    stage = Stage.load(Path(run), name)
    return Tasks(module_command("worker", *arguments), stage.tasks).wait(stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
