"""Every fault that Slurm deals out, on a fake Slurm and on a real one: it changes no result.

The members run and meet their faults at the same time, so each takes as long as the slowest of
them, not their sum.
"""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from support.clusters import (
    FREE_NODES,
    LOST_NODE,
    MARK,
    PREEMPTED_NODE,
    Cluster,
    FakeCluster,
    RealCluster,
    kill_batch_shell,
)
from support.fake_slurm import FakeSlurm
from support.small_work import SmallTrainer, equal, train
from support.waiting import wait
from torch.utils.data import DataLoader, TensorDataset

from cluster import Attempt, Cause, RobustExecutor, RobustJob, shielded
from cluster.scheduler import slurm
from cluster.status import State, run_status

pytestmark = pytest.mark.timeout(600)

STEPS = 120


# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def train_with_children(seed: int, steps: int, attempt: Attempt, pause: float = 0.0) -> Any:
    """Train, and in each step take a number from a data loader and from a program."""
    trainer = SmallTrainer(seed, steps)
    attempt.restore(trainer)
    print("resumed at step", attempt.resumed_step)
    with shielded():
        program = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
    assert program.stdin is not None
    assert program.stdout is not None
    numbers = TensorDataset(torch.arange(trainer.steps_done, steps))
    # A generator of its own: the loader draws a seed, from the global one by default.
    loader = DataLoader(
        numbers, num_workers=1, generator=torch.Generator(), multiprocessing_context="fork"
    )
    batches = iter(loader)
    for step in attempt.steps(trainer):
        trainer.step()
        time.sleep(pause)
        program.stdin.write(b".")
        assert program.stdout.read(1) == b"."
        (number,) = next(batches)
        assert number.item() == step
    program.kill()
    return trainer.result()


class Scene:
    """One member, and the fault that befalls it while it runs.

    Args:
        cluster: Where it runs.
        folder: Its run directory.
        nodes: Nodes that it may use.
        minutes: Its time limit.
        setup: Lines of its batch script.
        slowness: How much longer than others it takes.
        function: What it runs.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        nodes: tuple[str, ...] = FREE_NODES,
        minutes: int = 10,
        setup: tuple[str, ...] = (),
        slowness: float = 1.0,
        function: Callable[..., Any] = train,
    ):
        self.cluster, self.folder = cluster, folder
        self.nodes, self.minutes, self.setup = nodes, minutes, setup
        self.mark = uuid.uuid4().hex
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MARK, self.mark)
            pause = cluster.pause * slowness
            self.job = self.executor().submit(function, 11, STEPS, pause=pause)

    def executor(self) -> RobustExecutor:
        executor = RobustExecutor(self.folder, "slurm", checkpoint_seconds=2.0)
        executor.update_parameters(
            cpus_per_task=1,
            mem_gb=0.9,
            timeout_min=self.minutes,
            slurm_partition="gpu",
            slurm_signal_delay_s=20,
            slurm_exclude=",".join({"n0", "n1", "n2", "n3"} - set(self.nodes)),
            slurm_setup=list(self.setup),
        )
        return executor

    def causes(self) -> list[Cause | None]:
        return [attempt.cause for attempt in self.job.member.ledger.attempts()]

    def pid(self) -> int:
        return int(self.job.member.ledger.attempts()[-1].where["pid"])

    def run_a_while(self) -> None:
        progress = self.job.member.progress_file
        wait(lambda: progress.exists() and '"step": 0' not in progress.read_text(), "first steps")
        time.sleep(random.uniform(0.0, self.cluster.most))

    def run_on(self) -> None:
        """Until the last attempt has taken a step."""
        progress = self.job.member.progress_file
        attempts = self.job.member.ledger.attempts
        last = attempts()[-1].number
        wait(lambda: f'"attempt": {last}' in progress.read_text(), "a step of the new attempt")
        time.sleep(random.uniform(0.5, 2.0))


def cancel_and_retry(scene: Scene) -> State:
    scene.run_a_while()
    subprocess.run(["scancel", scene.job.job_id], check=True)
    wait(lambda: scene.causes() == [Cause.CANCELLED], "the cancelled member to leave")
    state = run_status(scene.folder)[0].state
    scene.executor().send([0], tag="-retry")
    return state


def send(number: int) -> Callable[[Scene], None]:
    def fault(scene: Scene) -> None:
        scene.run_a_while()
        os.kill(scene.pid(), number)

    return fault


def nothing(scene: Scene) -> None:
    """The time limit comes by itself."""


def preempt(scene: Scene) -> None:
    scene.run_a_while()
    scene.cluster.preempt(scene.job, scene.folder)


def notify_and_requeue(scene: Scene) -> None:
    scene.run_a_while()
    subprocess.run(["scancel", "--signal=USR2", scene.job.job_id], check=True)
    wait(lambda: len(scene.causes()) == 2, "the second attempt")
    scene.run_on()
    slurm.requeue(scene.job.job_id)


def lose_node(scene: Scene) -> None:
    scene.run_a_while()
    scene.cluster.lose_node(scene.job)


def kill_shell(scene: Scene) -> None:
    scene.run_a_while()
    kill_batch_shell(scene.mark)


Faulted = dict[str, tuple[Scene, Future[Any]]]


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.slurm)])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A fake Slurm that executes, then a real one."""
    if request.param == "real":
        yield RealCluster(request.getfixturevalue("slurmbox"))
        return
    fake = FakeSlurm(tmp_path_factory.mktemp("fake") / "bin", executes=True, minute=30.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(fake.directory), prepend=":")
        yield FakeCluster(fake)
    fake.close()


@pytest.fixture(scope="module")
def faulted(place: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulted]:
    folder = tmp_path_factory.mktemp("runs with spaces")
    refusing = tmp_path_factory.mktemp("node")
    (refusing / "scontrol").write_text("#!/bin/sh\necho Access/permission denied >&2\nexit 1\n")
    (refusing / "scontrol").chmod(0o755)
    without = (f"export PATH={refusing}:$PATH",)
    plans: dict[str, tuple[Scene, Callable[[Scene], Any]]] = {
        "lost": (Scene(place, folder / "lost", (LOST_NODE,)), lose_node),
        "preempted": (Scene(place, folder / "preempted", (PREEMPTED_NODE,)), preempt),
        "timeout": (Scene(place, folder / "timeout", minutes=1, slowness=place.slowness), nothing),
        "cancelled": (Scene(place, folder / "cancelled"), cancel_and_retry),
        "killed": (Scene(place, folder / "killed"), send(signal.SIGKILL)),
        "fed": (Scene(place, folder / "fed", function=train_with_children), notify_and_requeue),
        "told": (Scene(place, folder / "told", setup=without), send(signal.SIGTERM)),
        "shell": (Scene(place, folder / "shell"), kill_shell),
    }
    with ThreadPoolExecutor(len(plans)) as threads:
        yield {n: (scene, threads.submit(fault, scene)) for n, (scene, fault) in plans.items()}
    jobs: list[RobustJob] = [scene.job for scene, _ in plans.values()]
    slurm.cancel([job.job_id for job in jobs if not job.done()])


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a member comes to that nothing befell."""
    executor = RobustExecutor(tmp_path_factory.mktemp("twin"), "local")
    result: dict[str, Any] = executor.submit(train, 11, STEPS).result()
    return result


@pytest.mark.parametrize(
    ("name", "causes"),
    [
        ("cancelled", [Cause.CANCELLED]),
        ("killed", [Cause.KILLED]),
        # Its node has no scontrol: what waits for the result requeues it.
        ("told", [Cause.PREEMPTION]),
        # No exit trap ran, likewise.
        ("shell", [Cause.KILLED]),
        ("preempted", [Cause.PREEMPTION]),
        ("lost", [Cause.NODE_FAILURE]),
    ],
)
def test_a_fault_costs_an_attempt_and_changes_nothing(
    faulted: Faulted, twin: dict[str, Any], name: str, causes: list[Cause]
) -> None:
    scene, fault = faulted[name]
    fault.result()
    assert equal(scene.job.result(), twin)
    assert scene.causes() == [*causes, Cause.FINISHED]


def test_the_time_limit_costs_attempts_and_changes_nothing(
    faulted: Faulted, twin: dict[str, Any]
) -> None:
    scene, _ = faulted["timeout"]
    assert equal(scene.job.result(), twin)
    *interrupted, last = scene.causes()
    assert interrupted
    assert set(interrupted) == {Cause.TIMEOUT}
    assert last is Cause.FINISHED


def test_a_stop_passes_by_the_children_that_feed_a_member(
    faulted: Faulted, twin: dict[str, Any]
) -> None:
    scene, fault = faulted["fed"]
    fault.result()
    assert equal(scene.job.result(), twin)
    told, requeued, last = scene.job.member.ledger.attempts()
    assert told.cause is requeued.cause is Cause.PREEMPTION
    assert (told.detail or {}).keys() == (requeued.detail or {}).keys() == {"signal", "step"}
    assert (told.detail or {})["signal"] == signal.SIGUSR2
    assert (requeued.detail or {})["signal"] == signal.SIGTERM
    assert last.cause is Cause.FINISHED
    for ended, resumed in ((told, "0002.log"), (requeued, "0003.log")):
        log = (scene.job.member.logs / resumed).read_text()
        assert log.startswith(f"resumed at step {(ended.detail or {})['step']}\n")


def test_a_cancelled_member_reads_cancelled(faulted: Faulted) -> None:
    assert faulted["cancelled"][1].result() is State.CANCELLED
