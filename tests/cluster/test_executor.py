import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from support.small_work import equal, train, train_with_faults, without_sizes

from cluster import Budgets, Cause, RobustExecutor, RobustJob
from cluster.calls import Outcome, RemoteError
from cluster.executor import Backend
from cluster.job import MemberFailedError, results

cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEPS = 40


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    executor = RobustExecutor(tmp_path_factory.mktemp("twin"), "local")
    result: dict[str, object] = executor.submit(train, 7, STEPS).result()
    return result


def _causes(job: RobustJob) -> list[Cause | None]:
    return [attempt.cause for attempt in job.member.ledger.attempts()]


@pytest.mark.parametrize("backend", ["local", "inline"])
def test_results_and_their_order(tmp_path: Path, backend: Backend) -> None:
    jobs = RobustExecutor(tmp_path, backend).map_array(divmod, [7, 9, 11], [2, 2, 3])
    assert [job.result() for job in jobs] == [(3, 1), (4, 1), (3, 2)]


def test_inline_and_local_train_alike(tmp_path: Path, uninterrupted: dict[str, object]) -> None:
    inline = RobustExecutor(tmp_path, "inline").submit(train, 7, STEPS).result()
    assert equal(inline, uninterrupted)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("SIGUSR2", Cause.PREEMPTION),
        ("SIGTERM", Cause.PREEMPTION),
        ("SIGKILL", Cause.KILLED),
    ],
)
def test_interrupted_ends_bit_identical(
    tmp_path: Path, uninterrupted: dict[str, object], fault: str, cause: Cause
) -> None:
    steps = random.sample(range(STEPS - 1), 2)  # in the last step a signal is too late
    executor = RobustExecutor(tmp_path, "local", checkpoint_seconds=0.0)
    faults = {number: (fault, float(step)) for number, step in enumerate(sorted(steps), 1)}
    job = executor.submit(train_with_faults, 7, STEPS, faults)
    assert equal(job.result(), uninterrupted), f"faults: {faults}"
    assert _causes(job) == [cause] * 2 + [Cause.FINISHED]


def test_a_member_told_to_leave_in_its_last_step_ends(
    tmp_path: Path, uninterrupted: dict[str, object]
) -> None:
    faults = {1: ("SIGTERM", float(STEPS - 1))}
    job = RobustExecutor(tmp_path, "local").submit(train_with_faults, 7, STEPS, faults)
    assert equal(job.result(), uninterrupted)
    assert _causes(job) == [Cause.FINISHED]


def test_killed_inside_a_step_ends_bit_identical(
    tmp_path: Path, uninterrupted: dict[str, object]
) -> None:
    delays = {n: ("timer-SIGKILL", random.uniform(0.0, 0.15)) for n in (1, 2)}
    executor = RobustExecutor(tmp_path, "local", checkpoint_seconds=0.01)
    job = executor.submit(train_with_faults, 7, STEPS, delays)
    assert equal(job.result(), uninterrupted), f"faults: {delays}"


def test_out_of_memory_changes_nothing_but_the_microbatch(
    tmp_path: Path, uninterrupted: dict[str, object]
) -> None:
    faults = {1: ("oom", float(random.randrange(STEPS)))}
    executor = RobustExecutor(tmp_path, "local", checkpoint_seconds=0.0)
    job = executor.submit(train_with_faults, 7, STEPS, faults)
    result = job.result()
    assert equal(without_sizes(result), without_sizes(uninterrupted)), f"faults: {faults}"
    assert result["accumulator"] == {"microbatch": 8, "grain": 4, "healed": 1}


def _fail(text: str) -> None:
    raise LookupError(text)


def _unpicklable() -> object:
    return (number for number in range(3))


def test_the_original_exception_comes_back(tmp_path: Path) -> None:
    job = RobustExecutor(tmp_path, "local").submit(_fail, "no such site")
    with pytest.raises(LookupError, match="no such site") as caught:
        job.result()
    assert "in _fail" in caught.value.__notes__[0]


def test_an_unpicklable_result_leaves_a_record(tmp_path: Path) -> None:
    error = RobustExecutor(tmp_path, "local").submit(_unpicklable).exception()
    assert "cannot be pickled" in str(error)


class WithLockError(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("a lock is held")
        self.lock = threading.Lock()


class OfTwoError(Exception):
    """Is pickled, and cannot be read back: only one of two arguments is kept."""

    def __init__(self, site: str, why: str) -> None:
        super().__init__(f"{site}: {why}")


class WordlessError(WithLockError):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def _raise(error: type[Exception], *arguments: str) -> None:
    raise error(*arguments)


@pytest.mark.parametrize(
    ("error", "arguments", "said"),
    [
        (WithLockError, (), "WithLockError: a lock is held"),
        (OfTwoError, ("FR-Pue", "no data"), "OfTwoError: FR-Pue: no data"),
        (WordlessError, (), "WordlessError: <exception str() failed>"),
    ],
)
def test_an_exception_that_cannot_be_carried_over_leaves_its_text_and_traceback(
    tmp_path: Path, error: type[Exception], arguments: tuple[str, ...], said: str
) -> None:
    job = RobustExecutor(tmp_path, "inline").submit(_raise, error, *arguments)
    with pytest.raises(RemoteError) as caught:
        job.result()
    assert str(caught.value) == said
    (attempt,) = job.member.ledger.attempts()
    assert attempt.cause is Cause.ERROR
    outcome = Outcome.load(job.member)
    assert outcome is not None
    assert "in _raise" in outcome.traceback


def test_the_outcome_of_an_earlier_attempt_is_never_taken_for_the_last_ones(tmp_path: Path) -> None:
    job = RobustExecutor(tmp_path, "inline").submit(_fail, "of the first attempt")
    assert isinstance(job.exception(), LookupError)
    ledger = job.member.ledger
    ledger.queued()
    ledger.start({})
    assert not job.done()
    ledger.end(2, Cause.CANCELLED)
    with pytest.raises(MemberFailedError, match="cancelled, after 2 attempts"):
        job.result()


_DEBUGGED = """
import sys
from cluster import RobustExecutor

def train(secret):
    breakpoint()
    return secret + 1

print("result", RobustExecutor(sys.argv[1], "inline").submit(train, 41).result())
"""


def test_a_debugger_works_inline(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DEBUGGED, str(tmp_path)],
        input="print('seen', secret * 2)\nsecret = 99\ncontinue\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "seen 82" in done.stdout
    assert "result 100" in done.stdout


def test_one_failure_hides_no_other_result(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path, "local")
    with executor.batch():
        jobs = [executor.submit(int, "1"), executor.submit(int, "x"), executor.submit(int, "3")]
    outcomes = [outcome for _, outcome in results(jobs)]
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], ValueError)
    assert outcomes[2] == 3


@pytest.mark.parametrize("wrong", [{"keep": 1}, {"keep_bytes": -1}, {"checkpoint_seconds": -0.1}])
def test_impossible_rules_are_refused_before_anything_is_sent(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: expected at least [02], found {wrong[name]}"):
        RobustExecutor(tmp_path, "local", **wrong)
    assert list(tmp_path.iterdir()) == []


def _kill_self() -> None:
    os.kill(os.getpid(), 9)


def test_a_budget_ends_a_chain_of_kills(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path, "local", budgets=Budgets(killed=2))
    job = executor.submit(_kill_self)
    with pytest.raises(MemberFailedError, match="killed, after 3 attempts"):
        job.result()


def test_a_second_executor_adds_members(tmp_path: Path) -> None:
    first = RobustExecutor(tmp_path, "inline").submit(int, "1")
    second = RobustExecutor(tmp_path, "inline").submit(int, "2")
    assert (first.member.index, second.member.index) == (0, 1)
    assert (first.result(), second.result()) == (1, 2)


def own_member(member: int, name: str, *, attempt: str) -> tuple[int, str, str]:
    return member, name, attempt


def test_a_parameter_of_that_name_may_be_the_users_own(tmp_path: Path) -> None:
    job = RobustExecutor(tmp_path, "inline").submit(own_member, 3, "n", attempt="first")
    assert job.result() == (3, "n", "first")
