"""Laws of a member of two ranks: it lives, saves and leaves as one, whichever rank is struck."""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest
from support.small_work import equal, without_sizes
from support.team_work import Faults, TeamTrainer, train_together
from support.waiting import wait

from cluster import Attempt, Budgets, Cause, CheckpointStore, RobustExecutor, RobustJob
from cluster.checkpoints.checkpoint import CheckpointError
from cluster.checkpoints.random_state import capture
from cluster.records.member import Member
from cluster.stopping.signals import StopFlag

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.timeout(300)

STEPS = 60


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[RobustExecutor]:
    executor = RobustExecutor(tmp_path / "run", "local", checkpoint_seconds=0.02)
    executor.update_parameters(nodes=2)
    yield executor
    if executor._pool is not None:
        executor._pool.leave()


def _causes(job: RobustJob) -> list[Cause | None]:
    return [attempt.cause for attempt in job.member.ledger.attempts()]


def _left_after(job: RobustJob, number: int) -> set[str]:
    """The steps after which the ranks say that they left."""
    logs = job.member.logs.glob(f"{number:04d}*.log")
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return {line.split("leaving after ")[1].split(":")[0] for line in lines if "after" in line}


def _checks(job: RobustJob) -> None:
    """What holds of every member, whatever has befallen it."""
    events = job.member.ledger.events()
    ends = Counter(event["attempt"] for event in events if event["event"] == "end")
    assert set(ends.values()) == {1}
    for attempt in job.member.ledger.attempts():
        if attempt.cause is Cause.PREEMPTION:
            assert _left_after(job, attempt.number) == {f"step {(attempt.detail or {})['step']}"}
    assert not list(job.member.directory.glob("meeting-*"))
    assert not any("terminate called" in log.read_text() for log in job.member.logs.iterdir())


def test_faults_of_one_rank_cost_both_an_attempt_and_no_bit(
    tmp_path: Path, executor: RobustExecutor
) -> None:
    kinds = ["SIGTERM", "SIGKILL", "SIGUSR2"]
    steps = sorted(random.sample(range(2, STEPS - 1), len(kinds)))  # the last is too late to leave
    struck = [random.choice((0, 1)) for _ in kinds]
    faults: Faults = {
        (attempt, rank): (kind, step)
        for attempt, (rank, kind, step) in enumerate(zip(struck, kinds, steps, strict=True), 1)
    } | {(1, 1 - struck[0]): ("oom", 1)}
    job = executor.submit(train_together, 3, STEPS, faults=faults)
    found = job.result()
    twin = RobustExecutor(tmp_path / "twin", "local")
    twin.update_parameters(nodes=2)
    whole = twin.submit(train_together, 3, STEPS)
    assert equal(without_sizes(found), without_sizes(whole.result())), faults
    assert found["accumulator"]["microbatch"] < whole.result()["accumulator"]["microbatch"]
    told, killed = Cause.PREEMPTION, Cause.KILLED
    assert _causes(job) == [told, killed, told, Cause.FINISHED], faults
    assert _causes(whole) == [Cause.FINISHED]
    _checks(job)


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_told_to_leave_in_their_last_step_end(executor: RobustExecutor, rank: int) -> None:
    faults: Faults = {(1, rank): ("SIGTERM", STEPS - 1)}
    job = executor.submit(train_together, 3, STEPS, faults=faults)
    assert job.result()["steps_done"] == STEPS
    assert _causes(job) == [Cause.FINISHED]
    _checks(job)


def test_the_error_of_any_rank_comes_back_with_its_number(executor: RobustExecutor) -> None:
    faults: Faults = {(1, 1): ("error", 4), (2, 0): ("error", 7)}
    executor.stage = replace(executor.stage, budgets=Budgets(error=1))
    job = executor.submit(train_together, 3, STEPS, faults=faults)
    error = job.exception()
    assert isinstance(error, LookupError)
    assert "raised on rank 0 of 2" in error.__notes__
    assert _causes(job) == [Cause.ERROR, Cause.ERROR]
    first = job.member.ledger.attempts()[0].detail or {}
    assert first["error"] == "rank 1: no such sample"
    _checks(job)


def test_a_member_that_is_cancelled_leaves_as_one(executor: RobustExecutor) -> None:
    job = executor.submit(train_together, 3, 100_000)
    wait(job.member.progress_file.exists, "the first step")
    job.cancel()
    job.wait()
    assert _causes(job) == [Cause.CANCELLED]
    (left,) = _left_after(job, 1)
    saved = CheckpointStore(job.member.checkpoints).load()
    assert saved is not None
    assert left == f"step {saved.step}"


@pytest.mark.parametrize(("saved", "said"), [(2, "of 1 ranks, found one of 2"), (1, None)])
def test_a_checkpoint_of_other_ranks_is_refused(
    tmp_path: Path, saved: int, said: str | None
) -> None:
    attempt = Attempt(Member(tmp_path, "job", 0), 1, StopFlag(0))
    trainer = TeamTrainer(3, STEPS, attempt)
    state = {"work": trainer.state_dict(), "random": capture()}
    others = [{"random": capture(), "own": {}}] * (saved - 1)
    attempt.checkpoints.save(4, state | ({"others": others} if others else {}))
    if said is None:
        assert attempt.restore(trainer)
        return
    with pytest.raises(CheckpointError, match=said):
        attempt.restore(trainer)
