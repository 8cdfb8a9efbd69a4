"""Partial results: every member in one of three places, and a retry of the rest alone."""

import os
import signal
import sys
import threading
from pathlib import Path

import cloudpickle
import pytest
from support.fake_slurm import FakeSlurm
from support.waiting import wait

from cluster import Attempt, Budgets, Cause, Ledger, Member, RobustExecutor, collect
from cluster.calls import Call

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _by_kind(kind: str, mended: Path, member: Member) -> str:
    """Do what the kind says, until it is mended."""
    if mended.exists() or kind == "well":
        return f"{kind} {member.index}"
    if kind == "raises":
        raise LookupError("no such site")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{kind} was not stopped"


KINDS = ("well", "raises", "killed")


def _causes(ledger: Ledger) -> list[Cause | None]:
    return [attempt.cause for attempt in ledger.attempts()]


def test_what_is_there_is_kept_and_only_the_rest_is_started_again(tmp_path: Path) -> None:
    run, mended = tmp_path / "run", tmp_path / "mended"
    executor = RobustExecutor(run, "local", budgets=Budgets(killed=0))
    jobs = executor.map_array(_by_kind, KINDS, [mended] * len(KINDS))
    # A collector that is not on Slurm waits itself.
    RobustExecutor(run, "local", stage="collect", order=1).after(jobs)
    found = collect(jobs)
    assert found.ok == {0: "well 0"}
    assert list(found.failed) == [1]
    assert isinstance(found.failed[1], LookupError)
    assert list(found.missing) == [2]
    assert "ended without a result: killed, after 1 attempts" in found.missing[2]
    mended.touch()
    # Another process, which knows the directory alone.
    later = RobustExecutor(run, "inline")
    assert [job.member.index for job in later.retry()] == [1, 2]
    assert collect(later.jobs()).ok == {n: f"{kind} {n}" for n, kind in enumerate(KINDS)}
    finished = [Cause.FINISHED]
    found_causes = [_causes(job.member.ledger) for job in jobs]
    assert found_causes == [finished, [Cause.ERROR, *finished], [Cause.KILLED, *finished]]
    assert later.retry() == []


def _linger(attempt: Attempt) -> None:
    while True:
        attempt.leave_if_asked()
        threading.Event().wait(0.01)


def test_what_is_not_there_is_told_without_waiting_for_it(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path, "local", workers=1)
    waiting = executor.lay_out([Call(int, ("1",))])
    assert collect(waiting).missing == {0: "job/0000 has not started"}
    waiting[0].member.ledger.cancel()
    assert collect(waiting).missing == {0: "job/0000 has not started, and was cancelled"}
    (running,) = executor._submit_calls([Call(_linger)])
    wait(lambda: running.member.ledger.attempt_count() == 1, "the member to start")
    (text,) = collect([running]).missing.values()
    assert text.startswith("job/0001 runs on ")
    assert [job.member.index for job in RobustExecutor(tmp_path, "inline").retry()] == [0]
    running.cancel()
    executor.wait()
    (text,) = collect([running]).missing.values()
    assert "ended without a result: cancelled" in text


def test_what_waits_for_its_next_attempt_names_the_last_end(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path, "inline")
    (job,) = executor.lay_out([Call(int, ("1",))])
    ledger = job.member.ledger
    ledger.queued()
    ledger.end(ledger.start({}), Cause.PREEMPTION)
    text = "job/0000 waits to be started again; its last end was: preemption"
    assert collect([job]).missing == {0: text}
    assert [again.result() for again in executor.retry()] == [1]


def test_an_empty_stage_has_nothing_to_retry(tmp_path: Path) -> None:
    executor = RobustExecutor(tmp_path, "inline")
    assert executor.retry() == executor.jobs() == []


def test_a_collector_on_slurm_waits_for_the_end_of_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeSlurm(tmp_path / "bin", array_size=2)
    monkeypatch.setenv("PATH", str(fake.directory), prepend=":")
    executor = RobustExecutor(tmp_path / "run", "slurm")
    jobs = executor.map_array(divmod, range(5), [3] * 5)
    collector = RobustExecutor(tmp_path / "run", "slurm", stage="collect", order=1)
    collector.update_parameters(slurm_additional_parameters={"constraint": "ssd"})
    collector.after(jobs)
    collector.submit(int, "1")
    assert fake.jobs()[-1]["dependency"] == "afterany:100:101:102"
    assert "--constraint=ssd" in fake.jobs()[-1]["text"]
    # What has ended may be forgotten by Slurm, which refuses to wait for it.
    for job in jobs[2:]:
        job.member.ledger.end(job.member.ledger.start({}), Cause.FINISHED)
    collector.after(jobs)
    collector.submit(int, "1")
    assert fake.jobs()[-1]["dependency"] == "afterany:100"
    collector.after([])
    collector.submit(int, "1")
    assert fake.jobs()[-1]["dependency"] == ""
