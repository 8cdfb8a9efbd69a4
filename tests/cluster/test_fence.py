"""Laws of the fence: an attempt that was taken for dead changes nothing when it comes back."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from support.commandline import tree
from support.small_work import equal, train
from support.waiting import wait

from cluster import Attempt, Cause, CheckpointStore, Ledger, Member, RobustExecutor, aftermath
from cluster.calls import Outcome
from cluster.checkpoints.saving import BackgroundSaver
from cluster.records.fence import Fence, Superseded
from cluster.stopping.signals import StopFlag

STEPS, PAUSE = 60, 0.02

_START = """
import sys
from pathlib import Path
from cluster.records.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
sys.stdin.readline()
print(*(ledger.start({}) for _ in range(20)))
"""

_SECOND_LAUNCHER = """
import sys
from cluster import RobustExecutor
executor = RobustExecutor(sys.argv[1], "local", checkpoint_seconds=0.0)
executor.send([0])
executor.wait()
"""


@pytest.fixture
def member(tmp_path: Path) -> Member:
    member = Member(tmp_path, "train", 0)
    member.directory.mkdir(parents=True)
    return member


def _stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def _launch_again(run: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _SECOND_LAUNCHER, str(run)])


@dataclass
class Scene:
    """A member whose process has been stopped, as the network does with a whole node."""

    executor: RobustExecutor
    member: Member
    zombie: int = 0

    def stop_somewhere(self) -> None:
        wait(lambda: any(self.member.checkpoints.glob("*.pt")), "a save")
        threading.Event().wait(random.uniform(0.0, 0.5))
        self.zombie = int(self.member.ledger.attempts()[0].where["pid"])
        os.kill(self.zombie, signal.SIGSTOP)
        wait(lambda: _stopped(self.zombie), "the process to stop")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Scene]]:
    """Two of them, started at once for the time that starting takes."""
    found = []
    for _ in range(2):
        executor = RobustExecutor(
            tmp_path_factory.mktemp("run"), "local", workers=1, checkpoint_seconds=0.0
        )
        found.append(Scene(executor, executor.submit(train, 7, STEPS, pause=PAUSE).member))
    for scene in found:
        scene.stop_somewhere()
    yield found
    for scene in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(scene.zombie, signal.SIGKILL)


def _files(member: Member) -> dict[str, bytes | None]:
    """All of a member but the log in which the attempt that lost it says so."""
    return {n: content for n, content in tree(member.directory).items() if n != "logs/0001.log"}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    executor = RobustExecutor(tmp_path_factory.mktemp("twin"), "inline")
    result: dict[str, object] = executor.submit(train, 7, STEPS).result()
    return result


def test_one_that_comes_back_changes_no_byte(scenes: list[Scene], twin: dict[str, object]) -> None:
    """One comes back after the newer attempt has finished, the other while it runs."""
    after, amid = scenes
    with _launch_again(after.member.run) as second, _launch_again(amid.member.run) as third:
        wait(lambda: amid.member.ledger.attempt_count() == 2, "the second attempt")
        os.kill(amid.zombie, signal.SIGCONT)
        assert (second.wait(120), third.wait(120)) == (0, 0)
    before = _files(after.member)
    os.kill(after.zombie, signal.SIGCONT)
    for scene in scenes:
        scene.executor.wait()
        outcome = Outcome.load(scene.member)
        assert outcome is not None
        assert outcome.attempt == 2
        assert equal(outcome.value, twin)
        log = (scene.member.logs / "0001.log").read_text()
        assert "attempt 1 leaves and writes nothing more" in log
        causes = [attempt.cause for attempt in scene.member.ledger.attempts()]
        assert causes == [Cause.KILLED, Cause.FINISHED]
    assert _files(after.member) == before


def test_attempts_that_start_at_once_have_different_numbers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    command = [sys.executable, "-c", _START, str(path)]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe))
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        numbers = [int(n) for p in processes for n in p.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 81))
    assert [attempt.number for attempt in Ledger(path).attempts()] == sorted(numbers)


def _newer_attempt(member: Member) -> None:
    member.ledger.start({})


def test_a_ledger_that_grows_otherwise_fences_nobody_off(member: Member) -> None:
    fence = Fence(member.ledger, member.ledger.start({}))
    fence.check()
    member.ledger.microbatch(1, 8)
    fence.check()
    _newer_attempt(member)
    for _ in range(2):
        with pytest.raises(Superseded, match=r"attempt 1 leaves .* attempt 2 has started"):
            fence.check()


def _save(member: Member, meanwhile: Callable[[], None]) -> None:
    """Save a state while something happens between the bytes and their name."""

    class Late(CheckpointStore):
        def _rotate(self, newest: Path) -> None:
            meanwhile()
            super()._rotate(newest)

    fence = Fence(member.ledger, 1)
    Late(member.checkpoints, fence=fence.check).save(3, {"weights": torch.ones(3)})


def test_an_older_attempt_removes_no_checkpoint_of_the_newer(member: Member) -> None:
    # Rotation takes away later steps as of an attempt that was overtaken: here it is our own.
    member.ledger.start({})

    def newer() -> None:
        _newer_attempt(member)
        for step in (5, 6):
            CheckpointStore(member.checkpoints, keep=9).save(step, {})

    with pytest.raises(Superseded):
        _save(member, newer)
    found = CheckpointStore(member.checkpoints).load()
    assert found is not None
    assert found.step == 6


def test_a_file_that_the_newer_attempt_cleared_away_is_no_error(member: Member) -> None:
    member.ledger.start({})
    calls: list[None] = []

    def lost_before_the_rename() -> None:
        calls.append(None)
        if len(calls) == 2:
            _newer_attempt(member)
            for leftover in member.checkpoints.glob(".*.tmp"):
                leftover.unlink()
            return
        Fence(member.ledger, 1).check()

    store = CheckpointStore(member.checkpoints, fence=lost_before_the_rename)
    with pytest.raises(Superseded):
        store.save(3, {})


def test_the_background_tells_it_to_the_loop(member: Member) -> None:
    member.ledger.start({})
    _newer_attempt(member)
    saver = BackgroundSaver(
        CheckpointStore(member.checkpoints, fence=Fence(member.ledger, 1).check)
    )
    saver.start(3, {})
    with pytest.raises(Superseded):
        saver.wait()
    assert not member.checkpoints.exists() or not list(member.checkpoints.iterdir())


def test_no_outcome_takes_the_place_of_a_newer_one(member: Member) -> None:
    member.ledger.start({})
    _newer_attempt(member)
    Outcome(2, "newer").save(member)
    with pytest.raises(Superseded):
        Outcome(1, "older").save(member)
    found = Outcome.load(member)
    assert found is not None
    assert found.value == "newer"
    assert [path.name for path in member.directory.glob(".*.tmp")] == []


def test_code_outside_the_loop_can_ask(member: Member) -> None:
    attempt = Attempt(member, member.ledger.start({}), StopFlag(os.getpid()))
    attempt.leave_if_asked()
    _newer_attempt(member)
    with pytest.raises(Superseded):
        attempt.leave_if_asked()


@pytest.mark.parametrize(
    ("newer", "own", "noted"),
    [
        ({"job_id": "8", "restart_count": "1"}, ("8", None), False),
        ({"job_id": "9"}, ("8", None), False),
        ({"job_id": "8", "restart_count": "1"}, ("8", "1"), True),
    ],
)
def test_the_exit_trap_of_an_older_run_notes_no_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    newer: dict[str, str],
    own: tuple[str, str | None],
    noted: bool,
) -> None:
    executor = RobustExecutor(tmp_path, "inline")
    job = executor.submit(int, "1")
    ledger = job.member.ledger
    for where in ({"job_id": "8"}, newer):
        ledger.queued()
        ledger.start({"slurm": where})
    monkeypatch.setenv("PATH", os.fspath(tmp_path))  # no Slurm to ask
    monkeypatch.setenv("SLURM_JOB_ID", own[0])
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if own[1]:
        monkeypatch.setenv("SLURM_RESTART_COUNT", own[1])
    assert aftermath.main([str(tmp_path), "job", "0", "0"]) == 0
    assert (ledger.open_attempt() is None) == noted
    assert len(ledger.attempts()) == 3
