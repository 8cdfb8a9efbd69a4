"""Laws of the ranks of this machine: signals reach all, and none outlives another's failure."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.distributed.tasks import Tasks
from cluster.stopping.deadline import KILL_WAIT
from cluster.stopping.signals import StopFlag

_TASK = """
import os, signal, sys, time
rank, place = os.environ["SLURM_PROCID"], sys.argv[1]
def told(number, frame):
    open(f"{place}/{rank}-{signal.Signals(number).name}", "w").close()
    if sys.argv[2] != "stubborn":
        os._exit(0)
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, told)
open(f"{place}/{rank}-is-there", "w").close()
while rank == "0" or sys.argv[2] == "stay":
    time.sleep(0.01)
while not os.path.exists(f"{place}/0-is-there"):
    time.sleep(0.01)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(3)
"""


def _tasks(place: Path, mode: str) -> Tasks:
    return Tasks([sys.executable, "-c", _TASK, str(place), mode], 2)


def _seen(place: Path) -> set[str]:
    return {path.name for path in place.iterdir() if "SIG" in path.name}


@pytest.mark.parametrize(("mode", "status"), [("die", 137), ("fail", 3)])
def test_a_task_that_fails_ends_the_others(tmp_path: Path, mode: str, status: int) -> None:
    assert _tasks(tmp_path, mode).wait(StopFlag(os.getpid())) == status
    assert _seen(tmp_path) == {"0-SIGTERM"}


def test_a_task_that_does_not_leave_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KILL_WAIT, "0.2")
    assert _tasks(tmp_path, "stubborn").wait(StopFlag(os.getpid())) == 128 + signal.SIGKILL


def test_a_stop_reaches_every_task(tmp_path: Path) -> None:
    stop = StopFlag(os.getpid())
    tasks = _tasks(tmp_path, "stay")
    with ThreadPoolExecutor() as threads:
        status = threads.submit(tasks.wait, stop)
        while len(list(tmp_path.glob("*-is-there"))) < 2:
            time.sleep(0.01)
        stop.set(signal.SIGUSR2)
        assert status.result() == 0
    assert _seen(tmp_path) == {"0-SIGUSR2", "1-SIGUSR2"}
