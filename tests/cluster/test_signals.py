"""Laws of signals: the first one decides, the owner alone answers, none comes too early."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.commands import RUNNING, Commands
from support.small_work import SmallTrainer, equal, train
from support.waiting import wait
from torch.utils.data import DataLoader, TensorDataset

from cluster import Attempt, Cause, RobustExecutor, RobustJob, shielded
from cluster.calls import Call
from cluster.environment import module_command
from cluster.execution import execute
from cluster.stopping.signals import STOP_SIGNALS, StopFlag

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@given(st.lists(st.sampled_from(STOP_SIGNALS), min_size=1, max_size=5))
def test_the_first_signal_decides(numbers: list[signal.Signals]) -> None:
    flag = StopFlag(os.getpid())
    assert (bool(flag), flag.signum, flag.received_at) == (False, None, None)
    flag.set(numbers[0])
    received = flag.received_at
    for number in numbers:
        flag.set(number)
    assert (bool(flag), flag.signum, flag.received_at) == (True, numbers[0], received)


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


class Disturbed(SmallTrainer):
    """A trainer that sends itself signals, once each.

    Args:
        signals: Signals by where they are sent: at the start of a step, or in the save after it.
    """

    def __init__(self, signals: Mapping[tuple[str, int], int]) -> None:
        super().__init__(seed=3, steps=12)
        self.signals = dict(signals)

    def step(self) -> None:
        self._send("step")
        super().step()

    def state_dict(self) -> Mapping[str, Any]:
        self._send("save")
        return super().state_dict()

    def _send(self, place: str) -> None:
        number = self.signals.pop((place, self.steps_done), None)
        if number is not None:
            os.kill(os.getpid(), number)


def _train(signals: Mapping[tuple[str, int], int], attempt: Attempt) -> dict[str, Any]:
    work = Disturbed(signals if attempt.number == 1 else {})
    attempt.restore(work)
    for _ in attempt.steps(work):
        work.step()
    return work.result()


def _train_in_a_storm(folder: Path, attempt: Attempt) -> dict[str, Any]:
    work = Disturbed({})
    attempt.restore(work)
    for step in attempt.steps(work):
        if step == attempt.resumed_step + 4:
            (folder / f"{attempt.number} is in a step").touch()
            wait((folder / f"{attempt.number} may go on").exists, "the storm")
        work.step()
    return work.result()


def _storm(folder: Path, job: RobustJob, number: int) -> None:
    """Send hundreds of CONT within a step; to the first attempt stops as well, until it is gone."""
    wait((folder / f"{number} is in a step").exists, "a step")
    pid = job.member.ledger.attempts()[-1].where["pid"]
    for _ in range(300):
        os.kill(pid, signal.SIGCONT)
    (folder / f"{number} may go on").touch()
    if number == 1:
        process = psutil.Process(pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            for signum in cycle([*STOP_SIGNALS, signal.SIGCONT]):
                process.send_signal(signum)


USR2, TERM = STOP_SIGNALS
DISTURBANCES = {
    "TERM after USR2": {("step", 4): USR2, ("save", 5): TERM},
    "TERM twice": {("step", 4): TERM, ("save", 5): TERM},
    "in a save": {("save", 5): TERM},
}


def test_signals_that_come_late_or_often_change_nothing(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path / "run", "local", checkpoint_seconds=0.0)
    calls = [Call(_train, (signals,)) for signals in ({}, *DISTURBANCES.values())]
    stormy, twin, *disturbed = executor.lay_out([Call(_train_in_a_storm, (tmp_path,)), *calls])
    executor.send(range(executor.stage.members))
    for number in (1, 2):
        _storm(tmp_path, stormy, number)
    for name, job in zip(DISTURBANCES, disturbed, strict=True):
        assert equal(job.result(), twin.result()), name
        first, second = job.member.ledger.attempts()
        assert (first.cause, second.cause) == (Cause.PREEMPTION, Cause.FINISHED), name
        answered = {"signal": USR2 if "USR2" in name else TERM, "step": 5}
        assert first.detail == answered, name
    assert equal(stormy.result(), twin.result())
    events = [event["event"] for event in stormy.member.ledger.events()]
    assert [event for event in events if event in ("start", "end")] == ["start", "end"] * 2


class Fed:
    """Work that is fed by data loaders and has helpers of every kind."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.steps_done, self.steps_total = 0, 8
        self.loaders = [iter(_loader(context)) for context in ("fork", "spawn")]
        self.plain = _cat()
        with shielded():
            self.sheltered = _cat()
        # multiprocessing waits for it where a process exits.
        self.helper = multiprocessing.get_context("fork").Process(target=signal.pause)
        self.helper.start()

    def step(self) -> None:
        for _ in range(4):  # more than are prefetched
            for loader in self.loaders:
                next(loader)
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {"done": self.steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps_done = state["done"]


def _loader(context: str) -> DataLoader[Any]:
    numbers = TensorDataset(torch.arange(10_000))
    return DataLoader(numbers, num_workers=1, multiprocessing_context=context)


def _cat() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


def _answers(program: "subprocess.Popen[bytes]") -> bool:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(b".")
    return program.stdout.read(1) == b"."


def _feed(attempt: Attempt) -> int:
    work = Fed()
    attempt.restore(work)
    for step in attempt.steps(work):
        work.step()
        if (attempt.number, step) in ((1, 2), (2, 4)):
            _tell_the_whole_step(STOP_SIGNALS[attempt.number - 1])
            work.step()
            assert _answers(work.sheltered)
            assert attempt.number == 2 or _answers(work.plain)
    for child in (work.sheltered, work.plain, work.helper):
        child.kill()
    return attempt.resumed_step


def _tell_the_whole_step(number: int) -> None:
    """Signal this process and all below it, as slurmstepd does, which is none of them."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    pids = " ".join(str(process.pid) for process in family)
    subprocess.run(["sh", "-c", f"kill -{number:d} {pids}"], check=True)


def test_a_stop_passes_by_whatever_feeds_the_step_in_flight(tmp_path: Path) -> None:
    job = RobustExecutor(tmp_path, "local", checkpoint_seconds=0.0).submit(_feed)
    assert job.result() == 6
    first, second, last = job.member.ledger.attempts()
    assert first.detail == {"signal": USR2, "step": 4}
    assert second.detail == {"signal": TERM, "step": 6}
    assert last.cause is Cause.FINISHED
    ends = [event for event in job.member.ledger.events() if event["event"] == "end"]
    assert len(ends) == 3
    logs = [path.read_text() for path in sorted(job.member.logs.glob("0*.log"))]
    assert logs == [f"job/0000: leaving after step {n}: preemption\n" for n in (4, 6)] + [""]


def test_a_second_signal_does_not_hide_who_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = RUNNING.replace("RUNNING", "COMPLETING").replace("Reason=None", "Reason=TimeLimit")
    commands = Commands(tmp_path / "bin", monkeypatch)
    commands.add("scontrol", f'kill -TERM $$; echo "{facts}"')
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    executor = RobustExecutor(tmp_path / "run", "inline")
    (job,) = executor.lay_out([Call(train, (7, 5))])
    job.member.ledger.queued()
    stop = StopFlag(os.getpid())
    stop.set(TERM)
    execute(executor.stage, 0, stop, redirect=False)
    assert [attempt.cause for attempt in job.member.ledger.attempts()] == [Cause.TIMEOUT]
