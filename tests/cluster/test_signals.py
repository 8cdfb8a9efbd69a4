"""Laws of signals: the first one decides, the owner alone answers, none is too early."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_work import train
from torch.utils.data import DataLoader, IterableDataset

from cluster import Attempt, Cause, RobustExecutor, signals
from cluster.calls import Call
from cluster.worker import module_command

cloudpickle.register_pickle_by_value(sys.modules[__name__])

_FORK = """
import os, signal, sys, time
from cluster import signals
flag = signals.install()
ready, say_ready = os.pipe()
child = os.fork()
if child == 0:
    # USR1 says that the stop signals have been sent, and asks for the verdict.
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(1 if flag else 0))
    os.write(say_ready, b".")
    while True:
        time.sleep(1)
os.read(ready, 1)
for signum in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1):
    os.kill(child, signum)
    time.sleep(0.1)
_, status = os.waitpid(child, 0)
assert not flag, "the owner's flag is set"
os.kill(os.getpid(), signal.SIGUSR2)
assert flag.signum == signal.SIGUSR2
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in signals.STOP_SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", signals.STOP_SIGNALS)
def test_a_signal_sets_the_flag_and_does_nothing_else(signum: signal.Signals) -> None:
    flag = signals.install()
    assert not flag
    before = time.time()
    os.kill(os.getpid(), signum)
    assert flag.signum == signum
    assert flag.received_at is not None
    assert before <= flag.received_at <= time.time()


@given(st.lists(st.sampled_from(signals.STOP_SIGNALS), min_size=1, max_size=5))
def test_the_first_signal_decides(numbers: list[signal.Signals]) -> None:
    flag = signals.install()
    for number in numbers:
        os.kill(os.getpid(), number)
    received = flag.received_at
    os.kill(os.getpid(), random.choice(signals.STOP_SIGNALS))
    assert (flag.signum, flag.received_at) == (numbers[0], received)


def test_a_forked_child_neither_dies_nor_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_during_the_imports_is_remembered(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path, "local")
    (job,) = executor.lay_out([Call(train, (7, 5))])
    job.member.ledger.queued()
    worker = subprocess.Popen(module_command("worker", str(executor.stage.run), "job", "0"))
    while not _catches(worker.pid, signal.SIGUSR2):
        assert worker.poll() is None
    worker.send_signal(signal.SIGUSR2)
    assert worker.wait() == 75
    (attempt,) = job.member.ledger.attempts()
    assert attempt.cause is Cause.PREEMPTION
    assert attempt.detail == {"signal": signal.SIGUSR2, "step": 0}


def _catches(pid: int, signum: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16) if "SigCgt:" in status else 0
    return bool(caught >> (signum - 1) & 1)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10_000))


class Loading:
    """Work whose every step waits for a DataLoader's child."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.steps_done, self.steps_total = 0, 6
        self.batches = iter(DataLoader(Stream(), num_workers=1, multiprocessing_context="fork"))

    def step(self) -> None:
        for _ in range(4):  # more than are prefetched
            next(self.batches)
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {"done": self.steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps_done = state["done"]


def _load(attempt: Attempt) -> int:
    work = Loading()
    attempt.restore(work)
    for step in attempt.steps(work):
        if step == 3 and attempt.number == 1:
            os.killpg(0, signal.SIGTERM)  # as slurmd does: to every process of the step
        work.step()
    return attempt.resumed_step


def test_a_loader_killed_along_with_its_owner_is_no_error(tmp_path: Path) -> None:
    # torch's loader dies of TERM and fails the step in flight. The member was asked to leave, so
    # that is how the attempt ended: from its last checkpoint it is well.
    job = RobustExecutor(tmp_path, "local", checkpoint_seconds=0.0).submit(_load)
    assert job.exception() is None
    causes = [attempt.cause for attempt in job.member.ledger.attempts()]
    assert causes == [Cause.PREEMPTION, Cause.FINISHED]
    assert job.result() == 3
