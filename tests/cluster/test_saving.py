"""Laws of saving in the background: a snapshot, one at a time, and no failure is kept quiet."""

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.disks import fill, small_disk
from support.small_work import SmallTrainer, equal

from cluster.checkpoints.checkpoint import CheckpointError, CheckpointStore
from cluster.checkpoints.interval import Faults
from cluster.checkpoints.saving import BackgroundSaver, Pace
from cluster.stopping.grace import Grace

NEVER = 1e9

_SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
import torch
from cluster.checkpoints.checkpoint import CheckpointStore
from cluster.checkpoints.saving import BackgroundSaver
saver = BackgroundSaver(CheckpointStore(Path(sys.argv[1])))
weights = torch.zeros(200_000)
for step in itertools.count(1):
    weights += 1
    saver.start(step, {"step": step, "weights": weights})
    print(step, flush=True)
"""

# Forks while the writer writes the same state again and again: DataLoader's workers, and a bare
# child that does what a worker may do and leaves the way a program ends.
_FORK = """
import os, sys, threading
from pathlib import Path
import torch
from torch.utils.data import DataLoader
from cluster.checkpoints.checkpoint import CheckpointStore
from cluster.checkpoints.saving import BackgroundSaver
from cluster.checkpoints.snapshot import snapshot

class Busy(CheckpointStore):
    def save(self, step, state):
        while not gate.is_set():
            super().save(step, state)
        return super().save(step + 1, state)

torch.set_num_threads(1)
gate = threading.Event()
saver = BackgroundSaver(Busy(Path(sys.argv[1])))
saver.start(1, {"weights": torch.randn(200_000)})
data = list(DataLoader(torch.arange(64), batch_size=4, num_workers=2))
assert torch.cat(data).sum() == 2016
for _ in range(4):
    child = os.fork()
    if child == 0:
        import tempfile
        tempfile.TemporaryFile().close()
        taken = snapshot({"weights": torch.randn(1000) @ torch.randn(1000, 10)})
        saver.join()
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert saver.busy
gate.set()
saver.wait()
"""


class Slow(CheckpointStore):
    """A disk that takes a state and writes it only when it is let."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, keep=9)
        self.let, self.begun = threading.Event(), threading.Event()
        self.at_once: list[int] = []
        self.most_at_once = 0

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        self.at_once.append(step)
        self.most_at_once = max(self.most_at_once, len(self.at_once))
        self.begun.set()
        assert self.let.wait(60)
        self.at_once.remove(step)
        return super().save(step, state)


class Broken(CheckpointStore):
    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        raise RuntimeError("the controller is on fire")


def _steps(store: CheckpointStore) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in store.directory.glob("*.pt"))


def test_what_is_written_is_the_state_as_it_was(tmp_path: Path) -> None:
    store = Slow(tmp_path)
    saver = BackgroundSaver(store)
    trainer = SmallTrainer(3)
    for _ in range(4):
        trainer.step()
    saver.start(4, trainer.state_dict())
    assert store.begun.wait(60)
    for _ in range(5):
        trainer.step()  # AdamW changes weights and moments in place, the list of losses grows
    store.let.set()
    saver.wait()
    found = store.load()
    assert found is not None
    assert not equal(found.state, dict(trainer.state_dict()))
    resumed = SmallTrainer(99)
    resumed.load_state_dict(found.state)
    fresh = SmallTrainer(3)
    for _ in range(4):
        fresh.step()
    assert equal(dict(resumed.state_dict()), dict(fresh.state_dict()))


def test_one_save_is_written_at_a_time_and_none_is_dropped(tmp_path: Path) -> None:
    store = Slow(tmp_path)
    saver = BackgroundSaver(store)
    saver.start(1, {})
    assert saver.busy
    threading.Timer(0.05, store.let.set).start()
    for step in (2, 3, 4):
        saver.start(step, {})
    saver.wait()
    assert not saver.busy
    assert store.most_at_once == 1
    assert _steps(store) == [1, 2, 3, 4]


def test_a_full_disk_is_told_once_and_leaves_the_old_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        saver = BackgroundSaver(CheckpointStore(disk / "checkpoint"))
        saver.start(1, {"weights": torch.ones(100)})
        saver.wait()
        fill(disk)
        saver.start(2, {"weights": torch.ones(100)})
        with pytest.raises(CheckpointError, match=r"could not save step 2.*No space left"):
            saver.start(3, {"weights": torch.ones(100)})
        assert saver.wait() is None
        assert _steps(saver.store) == [1]


def test_any_failure_of_the_writer_is_a_checkpoint_error(tmp_path: Path) -> None:
    saver = BackgroundSaver(Broken(tmp_path))
    saver.start(5, {})
    with pytest.raises(CheckpointError, match=r"step 5.*the controller is on fire") as caught:
        saver.wait()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_state_that_could_not_be_loaded_is_refused(tmp_path: Path) -> None:
    saver = BackgroundSaver(CheckpointStore(tmp_path))
    saver.start(5, {"value": Path("/data")})
    with pytest.raises(CheckpointError, match="step 5: a state may hold tensors"):
        saver.wait()


def test_a_kill_amid_a_save_leaves_the_last_good_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SAVE_FOREVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        begun = [int(writer.stdout.readline()) for _ in range(random.randrange(2, 12))]
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(random.uniform(0.0, 0.02))
        writer.send_signal(signal.SIGKILL)
    found = CheckpointStore(tmp_path).load()
    assert found is not None
    # That a save has begun says that the one before is durable.
    assert found.step >= begun[-1] - 1
    assert torch.equal(found.state["weights"], torch.full((200_000,), float(found.step)))


def test_forks_during_a_save_do_not_hang(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FORK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = CheckpointStore(tmp_path).load()
    assert found is not None
    assert found.step == 2


def test_a_cheap_save_is_not_waited_for_and_a_bound_is(tmp_path: Path) -> None:
    store = Slow(tmp_path)
    pace = Pace(store, NEVER, Faults())
    pace._interval = 0.0
    pace.save_if_due((1, 9), dict)
    for step in (2, 3):
        pace.save_if_due((step, 9), dict)  # worth their cost, but the disk is busy: not now
    pace.longest = 0.01
    pace.cost.measured(0.0, 0.0)
    threading.Timer(0.05, store.let.set).start()
    assert store.begun.wait(60)
    threading.Event().wait(0.02)
    pace.save_if_due((4, 9), dict)
    pace.settle()
    assert _steps(store) == [1, 4]


def test_saves_faster_than_the_disk_are_made_in_the_steps_time(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    pace = Pace(store, 0.0, Faults())
    for step in range(5):
        pace.save_if_due((step, 5), lambda: {"weights": torch.ones(10)})
        assert _steps(store) == list(range(step + 1))


def test_a_failed_save_is_made_again_when_asked(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        pace = Pace(CheckpointStore(disk / "checkpoint"), NEVER, Faults())
        pace._interval = 0.0
        ballast = fill(disk)
        pace.save_if_due((3, 9), dict)
        with pytest.raises(CheckpointError, match="step 3"):
            pace.settle()
        ballast.unlink()
        pace.save((3, 9), dict)
        assert _steps(pace.store) == [3]


def test_saves_too_slow_for_a_stop_are_told_of_once_and_before_it(tmp_path: Path) -> None:
    said: list[str] = []
    pace = Pace(CheckpointStore(tmp_path), 0.0, Faults(), said.append)
    pace.save_if_due((1, 9), dict)
    assert said == []
    pace.grace = Grace(usr2=90.0, term=1e-9)
    for step in (2, 3):
        pace.save_if_due((step, 9), dict)
    (text,) = said
    assert "expected at most 1e-09 s, when SIGKILL comes" in text
    assert "a KillWait or GraceTime of more than 1e-09 s (tell it in YAOKI_KILL_WAIT)" in text
    assert "signal_delay" not in text


def test_stalls_beyond_the_budget_are_told_with_the_remedy(tmp_path: Path) -> None:
    pace = Pace(CheckpointStore(tmp_path), 0.0, Faults())
    pace.save_if_due((1, 9), dict)
    assert pace.complaint() is None
    pace.stalled = 1000.0
    complaint = pace.complaint()
    assert complaint is not None
    assert "expected at most 2%: checkpoint_seconds=0 asks for it" in complaint
