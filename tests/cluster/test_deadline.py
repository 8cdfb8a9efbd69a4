"""Laws of the deadline: a stop that is not answered is told of before the kill, with the remedy."""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cluster import Attempt, Budgets, Cause, RobustExecutor
from cluster.stopping.deadline import (
    DEFAULT_KILL_WAIT,
    KILL_WAIT,
    DeadlineWatch,
    Overdue,
    grace_seconds,
)
from cluster.stopping.signals import StopFlag

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Slow:
    """Work whose third step takes a minute."""

    steps_done, steps_total = 0, 5

    def step(self) -> None:
        if self.steps_done == 2:
            Path("began").touch()
            time.sleep(60)
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {"steps_done": self.steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps_done = state["steps_done"]


def _work(folder: Path, attempt: Attempt) -> int:
    os.chdir(folder)
    work = Slow()
    for _ in attempt.steps(work):
        work.step()
    return work.steps_done


def _until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.02)


def test_a_step_too_long_for_the_grace_is_told_before_the_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KILL_WAIT, "1.5")
    executor = RobustExecutor(tmp_path, "local", budgets=Budgets(killed=0))
    job = executor.submit(_work, tmp_path)
    ledger = job.member.ledger

    def overdue() -> list[dict[str, Any]]:
        return [event for event in ledger.events() if event["event"] == "overdue"]

    _until((tmp_path / "began").exists)
    pid = ledger.attempts()[0].where["pid"]
    os.kill(pid, signal.SIGTERM)
    _until(overdue)
    os.kill(pid, signal.SIGKILL)
    job.wait()
    (attempt,) = ledger.attempts()
    assert attempt.cause is Cause.KILLED
    (event,) = overdue()
    assert (event["attempt"], event["step"], event["saving"]) == (1, 2, False)
    assert (event["signal"], event["grace"]) == (signal.SIGTERM, 1.5)
    assert 0.8 * 1.5 <= event["waited"] <= event["seconds"]
    log = (job.member.logs / "0001.log").read_text()
    assert "SIGTERM came" in log
    assert "step 2 is not over after" in log
    assert "SIGKILL comes 1.5 s after the signal" in log
    assert "Remedy: a longer KillWait or GraceTime" in log
    assert "smaller steps" in log


def _watch(stop: StopFlag, signal_delay: float) -> tuple[DeadlineWatch, "queue.Queue[Overdue]"]:
    reports: queue.Queue[Overdue] = queue.Queue()
    return DeadlineWatch(stop, signal_delay, reports.put), reports


@pytest.mark.parametrize(("saving", "what"), [(False, "step 7"), (True, "the save after step 7")])
def test_the_report_names_what_takes_so_long(saving: bool, what: str) -> None:
    watch, reports = _watch(StopFlag(os.getpid()), 0.1)
    watch.start()
    watch.begin(7, saving)
    watch.stop.set(signal.SIGUSR2)
    overdue = reports.get(timeout=60)
    assert f"{what} is not over" in str(overdue)
    assert "signal_delay" in str(overdue)
    assert (overdue.grace, overdue.signal) == (0.1, signal.SIGUSR2)
    watch.close()
    assert reports.empty()


def test_an_answered_stop_is_not_reported() -> None:
    watch, reports = _watch(StopFlag(os.getpid()), 0.0)
    before = set(threading.enumerate())
    watch.start()
    (thread,) = set(threading.enumerate()) - before
    watch.close()
    watch.stop.set(signal.SIGUSR2)
    thread.join(60)
    assert not thread.is_alive()
    assert reports.empty()


def test_the_grace_is_the_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KILL_WAIT, raising=False)
    assert grace_seconds(signal.SIGUSR2, 120) == 120
    assert grace_seconds(signal.SIGTERM, 120) == DEFAULT_KILL_WAIT
    monkeypatch.setenv(KILL_WAIT, "300")
    assert grace_seconds(signal.SIGUSR2, 120) == 120
    assert grace_seconds(signal.SIGTERM, 120) == 300


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf", ""])
def test_a_grace_that_is_no_time_is_refused_before_the_first_step(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KILL_WAIT, text)
    with pytest.raises(ValueError, match=f"{KILL_WAIT}: expected a number of seconds > 0"):
        _watch(StopFlag(os.getpid()), 90.0)[0].start()
