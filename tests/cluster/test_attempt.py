"""Laws of the step loop: when it saves, when it leaves, and what a restore brings back."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.disks import fill, small_disk
from support.small_work import SmallTrainer, equal

from cluster import Attempt, Interrupted, Member
from cluster.checkpoints import saving
from cluster.checkpoints.checkpoint import CheckpointError
from cluster.stopping.deadline import KILL_WAIT
from cluster.stopping.signals import StopFlag

NEVER = 1e9


class Counting:
    """The smallest work there is; its state is what it drew."""

    def __init__(self, total: int) -> None:
        self.steps_done, self.steps_total = 0, total
        self.drawn: list[float] = []

    def step(self) -> None:
        self.drawn.append(random.random() + torch.rand(()).item())
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {"done": self.steps_done, "total": self.steps_total, "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps_done, self.steps_total = state["done"], state["total"]
        self.drawn = list(state["drawn"])


def _attempt(member: Member, seconds: float = NEVER, keep: int = 2) -> Attempt:
    member.directory.mkdir(parents=True, exist_ok=True)
    return Attempt(member, 1, StopFlag(os.getpid()), seconds, keep)


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path, "train", 0)


def _steps(attempt: Attempt, work: Counting) -> Iterator[int]:
    for step in attempt.steps(work):
        work.step()
        yield step


def _take(
    attempt: Attempt, work: Counting, events: Mapping[int, Callable[[], object]] | None = None
) -> list[int]:
    """Take steps until the loop ends; after some of them something happens."""
    taken = []
    for step in _steps(attempt, work):
        taken.append(step)
        (events or {}).get(step, lambda: None)()
    return taken


def _saved(member: Member) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in member.checkpoints.glob("*.pt"))


def test_every_step_is_taken_once_and_the_end_is_saved(member: Member) -> None:
    work = Counting(5)
    assert _take(_attempt(member), work) == [0, 1, 2, 3, 4]
    assert _saved(member) == [5]


def test_a_save_is_made_when_it_is_due(member: Member) -> None:
    _take(_attempt(member, seconds=0.0, keep=9), Counting(3))
    assert _saved(member) == [0, 1, 2, 3]


def test_a_stop_saves_and_leaves_between_two_steps(member: Member) -> None:
    work, attempt = Counting(9), _attempt(member)
    with pytest.raises(Interrupted):
        _take(attempt, work, {3: lambda: attempt.stop.set(12)})
    assert (work.steps_done, attempt.last_step, _saved(member)) == (4, 4, [4])


def test_a_stop_before_the_first_step_takes_none(member: Member) -> None:
    work, attempt = Counting(9), _attempt(member)
    attempt.stop.set(15)
    with pytest.raises(Interrupted):
        _take(attempt, work)
    assert work.drawn == []
    assert _saved(member) == [0]


def test_a_stop_in_the_last_step_lets_the_work_finish(member: Member) -> None:
    work, attempt = Counting(3), _attempt(member)
    _take(attempt, work, {2: lambda: attempt.stop.set(12)})
    assert _saved(member) == [3]
    with pytest.raises(Interrupted):
        attempt.leave_if_asked()


def test_interrupted_passes_an_except_exception(member: Member) -> None:
    def careless(attempt: Attempt) -> None:
        with contextlib.suppress(Exception):
            _take(attempt, Counting(3))

    attempt = _attempt(member)
    attempt.stop.set(12)
    with pytest.raises(Interrupted):
        careless(attempt)


def test_a_step_is_not_saved_twice(member: Member) -> None:
    work, attempt = Counting(2), _attempt(member)
    _take(attempt, work)
    (path,) = member.checkpoints.glob("*.pt")
    before = path.stat().st_ino
    again = _attempt(member, seconds=0.0)
    assert again.restore(work)
    assert _take(again, work) == []
    again.save(work)
    (path,) = member.checkpoints.glob("*.pt")
    assert path.stat().st_ino == before


def test_nothing_to_restore_is_said(member: Member) -> None:
    work = Counting(2)
    attempt = _attempt(member)
    assert not attempt.restore(work)
    assert (attempt.resumed_step, work.steps_done) == (0, 0)


def _begin_a_save(attempt: Attempt, error: Exception | None = None) -> None:
    """Enter the loop, have a save begun in the background, and leave without a stop."""
    attempt._pace._interval = 0.0
    with attempt:
        for _ in attempt.steps(Counting(9)):
            if error:
                raise error
            break


def test_a_loop_that_is_left_waits_for_what_is_being_written(member: Member) -> None:
    attempt = _attempt(member)
    attempt._pace._interval = 0.0
    for _ in attempt.steps(Counting(9)):
        break
    assert _saved(member) == [0]


@pytest.mark.parametrize("error", [None, LookupError("the user's own")])
def test_a_save_that_failed_is_told_when_the_attempt_ends(
    tmp_path: Path, error: Exception | None
) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        attempt = _attempt(Member(disk, "train", 0))
        fill(disk)
        with pytest.raises(type(error) if error else CheckpointError) as caught:
            _begin_a_save(attempt, error)
        told = [str(caught.value), *getattr(caught.value, "__notes__", [])]
        assert "could not save step 0" in told[-1]
        assert str(error or "could not save") in told[0]


@given(st.sets(st.integers(0, 7), max_size=3), st.integers(0, 2**31), st.floats(1e-6, 0.02))
@settings(max_examples=15, deadline=None)
def test_stops_leave_no_trace_in_the_work(
    tmp_path_factory: pytest.TempPathFactory, stops: set[int], seed: int, seconds: float
) -> None:
    expected = SmallTrainer(seed, 8)
    for _ in range(8):
        expected.step()
    result = expected.result()
    member = Member(tmp_path_factory.mktemp("run"), "train", 0)
    for stop in [*sorted(stops), None]:
        trainer, attempt = SmallTrainer(seed, 8), _attempt(member, seconds)
        attempt.restore(trainer)
        try:
            for step in attempt.steps(trainer):
                trainer.step()
                if step == stop:
                    attempt.stop.set(12)
        except Interrupted:
            continue
        assert equal(trainer.result(), result)


def test_a_save_that_no_stop_would_wait_for_is_told_of_while_all_is_well(
    member: Member, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KILL_WAIT, "1e-6")
    _take(_attempt(member, seconds=0.0), Counting(5))
    assert capsys.readouterr().err.count("train/0000: a stop may have to wait") == 1
    monkeypatch.setenv(KILL_WAIT, "300")
    _take(_attempt(member, seconds=0.0), Counting(5))
    assert capsys.readouterr().err == ""


def test_early_stopping_ends_the_loop_and_is_remembered(member: Member) -> None:
    work = Counting(100)
    _take(_attempt(member), work, {4: lambda: setattr(work, "steps_total", 5)})
    resumed, attempt = Counting(100), _attempt(member)
    assert attempt.restore(resumed)
    assert (attempt.resumed_step, _take(attempt, resumed)) == (5, [])


def test_an_end_that_comes_without_a_step_is_saved_all_the_same(member: Member) -> None:
    # A trainer that looks at its validation loss before a step may find that it is done.
    work = Counting(100)
    for step in _attempt(member, seconds=0.0).steps(work):
        if step == 5:
            work.steps_total = 5
        else:
            work.step()
    resumed, attempt = Counting(100), _attempt(member)
    assert attempt.restore(resumed)
    assert _take(attempt, resumed) == []


def test_progress_is_reported(member: Member) -> None:
    _take(_attempt(member), Counting(3))
    assert member.progress_file.read_text() == '{"step": 3, "of": 3, "attempt": 1}'


def test_progress_that_cannot_be_written_stops_nothing(member: Member) -> None:
    attempt = _attempt(member)
    member.progress_file.mkdir()
    assert _take(attempt, Counting(3)) == [0, 1, 2]


def test_a_disk_that_is_full_for_a_while_costs_no_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        member = Member(disk, "train", 0)
        attempt, work = _attempt(member, seconds=0.0), Counting(9)
        events: dict[int, Callable[[], object]] = {
            2: lambda: fill(disk),
            6: (disk / "ballast").unlink,
        }
        assert _take(attempt, work, events) == list(range(9))
        assert _saved(member) == [8, 9]
    (said,) = (line for line in capfd.readouterr().err.splitlines() if "could not save" in line)
    assert "No space left" in said
    assert "the steps go on, for 10 minutes at most" in said


def test_a_disk_that_stays_full_ends_the_loop_with_the_reason_and_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        member = Member(disk, "train", 0)
        with pytest.raises(CheckpointError, match=r"could not save step 9.*No space left"):
            _take(_attempt(member, seconds=0.0), Counting(9), {2: lambda: fill(disk)})
        assert _saved(member) == [1, 2]
        monkeypatch.setattr(saving, "REFUSAL_PATIENCE", 0.0)
        with pytest.raises(CheckpointError, match=r"could not save step 1.*No space left"):
            _take(_attempt(member, seconds=0.0), Counting(9))
        assert _saved(member) == [1, 2]
