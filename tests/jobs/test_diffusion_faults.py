"""The diffusion job under faults on this machine: it ends as if there had been none."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from support.comparison import differences
from support.diffusion import diffusion_plan
from support.faults import run_until, train_out_of_memory

from cluster import Cause
from cluster.calls import Call
from cluster.stage import Stage, load_stages
from jobs.diffusion.training import train
from jobs.launch import Launcher
from kernels.unet import UNet

OVERRIDES = (
    "training.epochs=40",
    "resources.simulate.checkpoint_seconds=0.2",
    "resources.train.checkpoint_seconds=0.2",
    "resources.assimilate.checkpoint_seconds=0.2",
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell."""
    plan = diffusion_plan(tmp_path_factory.mktemp("twin"), *OVERRIDES)
    run_until(plan, "local", "collect")
    return plan.directory


class Dealer:
    """Sends each member's process random signals at random times, a few of them.

    Args:
        run: The run directory.
        twin: An undisturbed run, which tells how long a member of each stage takes.
        faults: Signals for each member.
    """

    def __init__(self, run: Path, twin: Path, faults: int) -> None:
        self.run, self.faults = run, faults
        self._seconds = {stage.name: _seconds(stage) for stage in load_stages(twin)}
        self.dealt: dict[str, list[str]] = {}
        self._due: dict[str, tuple[int, float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._deal)

    def __enter__(self) -> "Dealer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _deal(self) -> None:
        while not self._over.wait(0.02):
            for stage in load_stages(self.run):
                if stage.name != "collect":
                    self._look(stage)

    def _look(self, stage: Stage) -> None:
        for member in stage:
            attempts = member.ledger.attempts()
            dealt = self.dealt.setdefault(member.name, [])
            if not attempts or attempts[-1].cause is not None or len(dealt) >= self.faults:
                continue
            last = attempts[-1]
            number, moment = self._due.get(member.name, (0, 0.0))
            if number != last.number:
                moment = last.started + random.uniform(0.0, 0.7 * self._seconds[stage.name])
                self._due[member.name] = (last.number, moment)
            if time.time() >= moment and len(dealt) < last.number:
                chosen = random.choice(SIGNALS)
                dealt.append(f"{chosen.name} {time.time() - last.started:.2f} s into {last.number}")
                os.kill(int(last.where["pid"]), chosen)


def _seconds(stage: Stage) -> float:
    """How long the first member of a stage took."""
    (attempt,) = stage.member(0).ledger.attempts()
    assert attempt.ended is not None
    return attempt.ended - attempt.started


def test_signals_at_random_moments_change_nothing(twin: Path, tmp_path: Path) -> None:
    plan = diffusion_plan(tmp_path, *OVERRIDES)
    launcher = Launcher(plan, "local")
    launcher.lay_out()
    with Dealer(plan.directory, twin, faults=2) as dealer:
        launcher.run()
    assert sum(map(len, dealer.dealt.values())) >= 4, "too few faults to tell"
    assert differences(plan.directory, twin) == [], f"dealt: {dealer.dealt}"


def test_out_of_memory_changes_nothing_but_the_microbatch(twin: Path, tmp_path: Path) -> None:
    plan = diffusion_plan(tmp_path, *OVERRIDES)
    launcher = Launcher(plan, "local")
    launcher.lay_out()
    passes = random.randrange(200)
    for member in Stage.load(plan.directory, "train"):
        Call(train_out_of_memory, (train, UNet, plan.config, passes)).save(member)
    launcher.run()
    assert differences(plan.directory, twin, sizes_too=False) == [], f"after {passes} passes"
    for member in Stage.load(plan.directory, "train"):
        assert [attempt.cause for attempt in member.ledger.attempts()] == [Cause.FINISHED]
        assert "microbatch now 4 of a batch of 8" in (member.logs / "0001.log").read_text()
