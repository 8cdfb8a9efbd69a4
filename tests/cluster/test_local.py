"""Laws of the local pool: bounded, it leaves when asked, and it ends whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudpickle
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_work import train

from cluster import Budgets, Cause, CheckpointStore, RobustExecutor, RobustJob
from cluster.calls import Call
from cluster.environment import available_cores
from cluster.execution import execute
from cluster.local import LocalPool, pool_size
from cluster.stopping.signals import StopFlag

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LONG = (7, 100_000)

_LAUNCH = """
import sys
from pathlib import Path
from cluster.local import LocalPool
from cluster.stage import Stage
stage = Stage.load(Path(sys.argv[1]), "job")
pool = LocalPool(stage, 1)
pool.add(stage)
pool.wait()
"""


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[RobustExecutor]:
    """An executor whose workers do not outlive the test."""
    yield RobustExecutor(tmp_path, "local", budgets=Budgets(killed=2))
    for child in _workers(tmp_path):
        child.kill()


def _workers(run: Path) -> list[psutil.Process]:
    """The worker processes of a run that this process has started."""
    found = []
    for child in psutil.Process().children():
        try:
            if "cluster.worker" in child.cmdline() and str(run) in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def _until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def _start(
    executor: RobustExecutor, calls: list[Call], workers: int
) -> tuple[LocalPool, list[RobustJob]]:
    jobs = executor.lay_out(calls)
    for job in jobs:
        job.member.ledger.queued()
    pool = LocalPool(executor.stage, workers)
    pool.add(job.member for job in jobs)
    return pool, jobs


def _causes(job: RobustJob) -> list[Cause | None]:
    return [attempt.cause for attempt in job.member.ledger.attempts()]


@given(st.integers(1, 4), st.none() | st.integers(1, 64))
def test_a_pool_fits_the_cores(cpus: int, wanted: int | None) -> None:
    size = pool_size(cpus, wanted)
    assert 1 <= size <= max(1, available_cores() // cpus)
    assert wanted is None or size <= wanted


def test_no_more_run_at_once_than_the_pool_holds(executor: RobustExecutor) -> None:
    calls = [Call(train, (seed, 3)) for seed in range(3)]
    pool, jobs = _start(executor, calls, workers=2)
    pool.wait()
    spans = [job.member.ledger.attempts()[0] for job in jobs]
    for span in spans:
        others = [o for o in spans if o.ended and o.started <= span.started < o.ended]
        assert len(others) <= pool.workers
    assert [_causes(job) for job in jobs] == [[Cause.FINISHED]] * 3


def test_leaving_saves_what_runs_and_starts_nothing(executor: RobustExecutor) -> None:
    pool, jobs = _start(executor, [Call(train, LONG)] * 3, workers=2)
    running, waiting = jobs[: pool.workers], jobs[pool.workers :]
    _until(lambda: all(job.member.progress_file.exists() for job in running))
    pool.leave()
    assert not pool.busy()
    for job in running:
        (attempt,) = job.member.ledger.attempts()
        assert attempt.cause is Cause.PREEMPTION
        saved = CheckpointStore(job.member.checkpoints).load()
        assert saved is not None
        assert attempt.detail is not None
        assert saved.step == attempt.detail["step"]
    assert [_causes(job) for job in waiting] == [[]] * len(waiting)


def test_leaving_at_once_is_no_failure_of_the_member(
    tmp_path: Path, executor: RobustExecutor
) -> None:
    pool, (job,) = _start(executor, [Call(train, LONG)], workers=1)
    _until(lambda: _workers(tmp_path))
    pool.leave()
    assert Cause.ERROR not in _causes(job)


def test_ctrl_c_makes_the_children_leave(tmp_path: Path, executor: RobustExecutor) -> None:
    pool, (job,) = _start(executor, [Call(train, LONG)], workers=1)

    def watch() -> None:
        if job.member.progress_file.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.wait(watch)
    assert _causes(job) == [Cause.PREEMPTION]
    assert _workers(tmp_path) == []


def test_members_of_a_killed_launcher_save_and_leave(executor: RobustExecutor) -> None:
    (job,) = executor.lay_out([Call(train, LONG)])
    job.member.ledger.queued()
    command = [sys.executable, "-c", _LAUNCH, str(executor.stage.run)]
    with subprocess.Popen(command) as launcher:
        _until(job.member.progress_file.exists)
        launcher.kill()
    _until(lambda: _causes(job) != [None])
    assert _causes(job) == [Cause.PREEMPTION]
    assert CheckpointStore(job.member.checkpoints).load() is not None


def test_a_worker_that_cannot_start_is_an_error_and_not_tried_for_ever(
    tmp_path: Path, executor: RobustExecutor
) -> None:
    (job,) = executor.lay_out([Call(train, LONG)])
    job.member.ledger.queued()
    (executor.stage.directory / "stage.json").write_text("{")
    pool = LocalPool(executor.stage, 1)
    pool.add([job.member])
    pool.wait()
    (attempt,) = job.member.ledger.attempts()
    assert attempt.cause is Cause.ERROR
    assert attempt.detail is not None
    log = Path(str(attempt.detail["error"]).split("see ")[1])
    assert "stage.json: expected" in log.read_text()


def test_a_worker_killed_before_it_could_start_is_started_again(
    tmp_path: Path, executor: RobustExecutor
) -> None:
    # The kernel's out-of-memory killer does not wait until torch is imported.
    pool, (job,) = _start(executor, [Call(train, (7, 2))], workers=1)
    _until(lambda: _workers(tmp_path))
    for child in _workers(tmp_path):
        child.send_signal(signal.SIGKILL)
    pool.wait()
    assert _causes(job) == [Cause.KILLED, Cause.FINISHED]


def test_a_member_that_is_cancelled_leaves(executor: RobustExecutor) -> None:
    job = executor.submit(train, *LONG)
    _until(job.member.progress_file.exists)
    job.cancel()
    deadline = time.monotonic() + 30
    _until(lambda: job.done() or time.monotonic() > deadline)
    assert _causes(job) == [Cause.CANCELLED]


def test_a_member_that_is_cancelled_before_its_turn_does_not_run(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path, "inline")
    (job,) = executor.lay_out([Call(divmod, (7, 2))])
    job.member.ledger.queued()
    job.cancel()
    execute(executor.stage, 0, StopFlag(os.getpid()), redirect=False)
    assert _causes(job) == []
    assert job.done()


def test_a_member_that_is_sent_again_is_not_done_before_it_has_run(
    executor: RobustExecutor,
) -> None:
    (job,) = executor.lay_out([Call(int, ("x",))])
    job.member.ledger.queued()
    job.member.ledger.end(job.member.ledger.start({}), Cause.ERROR)
    assert job.done()
    job.member.ledger.queued()
    assert not job.done()


def _surroundings() -> tuple[bool, bool, int, str]:
    own_session = os.getsid(0) == os.getpid()
    slurms = any(name.startswith("SLURM_") for name in os.environ)
    return own_session, slurms, torch.get_num_threads(), os.environ["MALLOC_MMAP_MAX_"]


def test_a_child_has_its_own_session_its_cores_threads_and_nothing_of_slurms(
    executor: RobustExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    executor.update_parameters(cpus_per_task=2)
    assert executor.submit(_surroundings).result() == (True, False, 2, "0")
