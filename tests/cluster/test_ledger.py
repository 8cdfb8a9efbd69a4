"""Laws of the ledger: what a member's budget has paid for is what its lines add up to."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.cause import Cause
from cluster.records.files import append_line
from cluster.records.ledger import Ledger, here

causes = st.sampled_from(list(Cause))


class LedgerLaws(RuleBasedStateMachine):
    """A ledger beside a plain model of it, through any order of events."""

    @initialize()
    def begin(self) -> None:
        self.folder = TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.jsonl")
        self.spent: Counter[Cause] = Counter()
        self.to_charge: Cause | None = None
        self.open: int | None = None
        self.fresh = True  # no attempt has started since the last submission
        self.starts = 0
        self.wanted = False
        self.job_id: str | None = None

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule()
    def queue(self) -> None:
        self.ledger.queued()
        self.spent, self.to_charge, self.fresh, self.wanted = Counter(), None, True, True
        self.job_id = None

    @rule(number=st.integers(1, 99))
    def send(self, number: int) -> None:
        if self.wanted:
            self.job_id = f"{number}_3"
            self.ledger.sent(self.job_id)

    @rule()
    def withdraw(self) -> None:
        self.ledger.withdrawn()
        self.wanted = False

    @rule()
    def start(self) -> None:
        if self.to_charge is not None:
            self.spent[self.to_charge] += 1
        self.starts += 1
        assert self.ledger.start(here()) == self.starts
        self.open, self.to_charge, self.fresh = self.starts, Cause.KILLED, False

    @rule(cause=causes)
    def end(self, cause: Cause) -> None:
        self.ledger.end(self.starts, cause, step=3)
        if self.open is not None and not self.fresh:
            self.to_charge = cause
        self.open = None

    @rule(cause=causes)
    def end_of_an_earlier_attempt(self, cause: Cause) -> None:
        if self.starts > 1:
            self.ledger.end(self.starts - 1, cause)

    @rule()
    def cancel(self) -> None:
        self.ledger.cancel()
        self.wanted = False

    @rule(size=st.integers(1, 20))
    def a_writer_is_killed_in_the_middle_of_a_line(self, size: int) -> None:
        line = b'{"event": "start", "time": 1.0, "attempt": 99, "where": {}}'
        with self.ledger.path.open("ab") as file:
            file.write(line[:size])

    @invariant()
    def both_agree(self) -> None:
        assert +self.ledger.spent() == +self.spent
        assert self.ledger.open_attempt() == self.open
        assert self.ledger.attempt_count() == len(self.ledger.attempts()) == self.starts
        assert self.ledger.wanted() == self.wanted
        assert self.ledger.last_job_id() == self.job_id


TestLedgerLaws = LedgerLaws.TestCase
TestLedgerLaws.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


@given(st.lists(causes, min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_an_end_without_a_following_start_costs_nothing(ends: list[Cause]) -> None:
    with TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        for cause in ends:
            ledger.end(ledger.start(here()), cause)
        assert ledger.spent() == Counter(ends[:-1])
        ledger.queued()
        assert not ledger.spent()


def test_the_end_of_a_lost_attempt_is_not_charged_to_the_next_submission(tmp_path: Path) -> None:
    # The node died, nothing noted it, and the user typed retry: the worker that starts then notes
    # the end of the lost attempt. The budgets opened by the retry must not pay for it.
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.queued()
    lost = ledger.start(here())
    ledger.queued()
    ledger.end(lost, Cause.KILLED)
    ledger.start(here())
    assert not ledger.spent()


def test_a_second_end_is_ignored(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    number = ledger.start(here())
    ledger.end(number, Cause.TIMEOUT, step=5)
    ledger.end(number, Cause.KILLED)
    (attempt,) = ledger.attempts()
    assert attempt.cause is Cause.TIMEOUT
    assert attempt.detail == {"step": 5}
    assert attempt.ended is not None
    assert attempt.ended >= attempt.started


def test_an_empty_ledger_knows_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert not ledger.attempts()
    assert not ledger.events()
    assert ledger.open_attempt() is None
    assert ledger.last_job_id() is None
    assert not ledger.wanted()
    assert not ledger.untouched()


def test_the_last_submission_names_the_job(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.queued()
    ledger.sent("17_3")
    assert ledger.last_job_id() == "17_3"
    ledger.queued()
    assert ledger.last_job_id() is None


def test_a_member_is_untouched_until_an_attempt_starts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for _ in range(2):
        ledger.queued()
        ledger.sent("17_3")
        assert ledger.untouched()
        ledger.start(here())
        assert not ledger.untouched()


def test_an_object_that_is_no_event_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    append_line(ledger.path, {"note": "left by another tool"})
    assert ledger.start(here()) == 1
    assert ledger.attempt_count() == 1


def test_here_names_slurms_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    found = here()["slurm"]
    assert (found["array_job_id"], found["array_task_id"]) == ("17", "3")
    assert "restart_count" not in found


def test_a_reopened_member_has_not_finished_until_it_does_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.queued()
    ledger.end(ledger.start({}), Cause.FINISHED)
    assert ledger.finished()
    ledger.reopen()
    assert not ledger.finished()
    ledger.queued()
    ledger.end(ledger.start({}), Cause.FINISHED)
    assert ledger.finished()
