"""Laws of the login node: nothing is hasty, nothing is done twice, and nothing waits for ever."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from support.controller import Controller, Job
from support.fake_slurm import FakeSlurm
from support.waiting import wait

from cluster import Attempt, Budgets, Cause, Ledger, Member, RobustExecutor, RobustJob
from cluster.records.ledger import here
from cluster.scheduler import slurm
from cluster.scheduler.patience import Patience
from cluster.stage import Stage
from cluster.status import State, run_status
from cluster.watching import Watch

cloudpickle.register_pickle_by_value(sys.modules[__name__])

QUICK = Patience(tries=2, first=0.0)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path / "run", "train", members=1, budgets=Budgets(killed=1))
    stage.save()
    stage.member(0).directory.mkdir()
    return stage


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    controller = Controller()
    monkeypatch.setattr(slurm, "run", controller.run)
    return controller


@pytest.fixture
def job(stage: Stage, controller: Controller) -> Job:
    """A job whose attempt nothing was heard of."""
    job = controller.sent()
    ledger = stage.member(0).ledger
    ledger.queued()
    ledger.sent(job.name)
    array, _, element = job.name.partition("_")
    ledger.start(here() | {"slurm": {"array_job_id": array, "array_task_id": element}})
    controller.start(job)
    return job


def _watch(stage: Stage) -> Watch:
    return Watch(stage.run, looks=3, apart=0.0, patience=QUICK)


def _causes(member: Member) -> list[Cause | None]:
    return [attempt.cause for attempt in member.ledger.attempts()]


def test_one_look_is_no_verdict(stage: Stage, controller: Controller, job: Job) -> None:
    controller.over(job, "FAILED")
    watch = _watch(stage)
    assert watch.look() == watch.look() == []
    (notice,) = watch.look()
    assert (notice.member, notice.job_id) == ("train/0000", "100_0")
    assert notice.text == "attempt 1 ended: killed; requeued"
    assert _causes(stage.member(0)) == [Cause.KILLED]
    assert controller.accepted == ["100_0"]


def test_looks_in_quick_succession_are_no_verdict_either(
    stage: Stage, controller: Controller, job: Job
) -> None:
    controller.over(job, "FAILED")
    hasty = Watch(stage.run, looks=2, apart=60.0)
    assert [hasty.look() for _ in range(9)] == [[]] * 9


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "PENDING", "SUSPENDED", "REQUEUE_HOLD"])
def test_a_job_that_slurm_still_has_is_left_alone(
    stage: Stage, controller: Controller, job: Job, state: str
) -> None:
    # COMPLETING may stay for hours where a node does not answer.
    job.state = state
    watch = _watch(stage)
    assert [watch.look() for _ in range(9)] == [[]] * 9
    assert _causes(stage.member(0)) == [None]


def test_a_lag_begins_the_count_anew(stage: Stage, controller: Controller, job: Job) -> None:
    watch = _watch(stage)
    for state in ("FAILED", "FAILED", "RUNNING", "FAILED", "FAILED"):
        job.state = state
        assert watch.look() == []
    # The note of the end arrives from the node.
    stage.member(0).ledger.end(1, Cause.FINISHED)
    assert watch.look() == watch.look() == watch.look() == []


def test_a_slurm_that_is_busy_proves_nothing(
    stage: Stage, controller: Controller, job: Job
) -> None:
    controller.over(job, "FAILED")
    watch = _watch(stage)
    watch.look()
    watch.look()
    controller.busy = 1
    with pytest.raises(slurm.SlurmBusyError):
        watch.look()
    watch._due = 0.0
    controller.busy = 1
    watch.look_now_and_then(0.0)
    assert _causes(stage.member(0)) == [None]
    assert watch.look() == watch.look() == []
    assert len(watch.look()) == 1


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("TIMEOUT", Cause.TIMEOUT),
        ("NODE_FAIL", Cause.NODE_FAILURE),
        ("CANCELLED", Cause.CANCELLED),
        ("FAILED", Cause.KILLED),
        ("COMPLETED", Cause.KILLED),
    ],
)
@pytest.mark.parametrize("accounting", [True, False])
def test_the_cause_is_what_slurm_says(
    stage: Stage, controller: Controller, job: Job, state: str, cause: Cause, accounting: bool
) -> None:
    controller.accounting = accounting
    controller.over(job, state)
    _watch(stage).insist()
    assert _causes(stage.member(0)) == [cause]
    assert bool(controller.accepted) == (cause is not Cause.CANCELLED)


@pytest.mark.parametrize("accounting", [True, False])
def test_what_waits_and_is_gone_was_cancelled(
    stage: Stage, controller: Controller, accounting: bool
) -> None:
    controller.accounting = accounting
    job = controller.sent()
    stage.member(0).ledger.queued()
    stage.member(0).ledger.sent(job.name)
    controller.over(job, "CANCELLED")
    job.known = False
    assert [notice.text for notice in _watch(stage).insist()] == ["cancelled"]
    assert run_status(stage.run)[0].state is State.CANCELLED
    assert RobustJob(stage, 0).done()


def test_an_exhausted_budget_is_named(stage: Stage, controller: Controller, job: Job) -> None:
    ledger = stage.member(0).ledger
    controller.over(job, "FAILED")
    assert len(_watch(stage).insist()) == 1
    ledger.start(ledger.attempts()[0].where)
    controller.over(job, "FAILED")
    (notice,) = _watch(stage).insist()
    spent = "the retry budget for 'killed' (1) is used up"
    assert notice.text == f"attempt 2 ended: killed; {spent}"
    assert spent in str(RobustJob(stage, 0).exception())


def test_a_new_job_carries_what_cannot_be_requeued(
    stage: Stage, controller: Controller, job: Job
) -> None:
    script = stage.run / "scripts" / "train-000000.sh"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/bash\n#SBATCH --array=0-9%4\n#SBATCH --dependency=afterok:7\n#SBATCH --mem=100\n"
    )
    stage.member(0).ledger.sent(job.name, script.name)
    controller.over(job, "FAILED")
    controller.refuses = True
    (notice,) = _watch(stage).insist()
    assert notice.text == "attempt 1 ended: killed; sent again, as a new job"
    assert notice.job_id == "101_0"
    again = script.with_name("train-000000-again-1.sh")
    assert again.read_text() == "#!/bin/bash\n#SBATCH --array=0%1\n#SBATCH --mem=100\n"
    assert stage.member(0).ledger.superseded(job.name)
    assert not stage.member(0).ledger.superseded("101_0")
    assert _watch(stage).insist() == []


def test_a_job_sent_by_a_command_that_was_killed_is_found(
    stage: Stage, controller: Controller, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = stage.run / "scripts" / "train-000000.sh"
    script.parent.mkdir()
    script.write_text("#!/bin/bash\n#SBATCH --array=0\n")
    ledger = stage.member(0).ledger
    ledger.sent(job.name, script.name)
    controller.over(job, "FAILED")
    controller.refuses = True
    with monkeypatch.context() as patch:
        patch.setattr("cluster.records.submissions.Submissions.sent", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            _watch(stage).insist()
    assert controller.accepted == ["101_0"]
    # Until its id is known, the new job is not taken for one that was replaced.
    assert not ledger.superseded("101_0")
    assert [notice.job_id for notice in _watch(stage).insist()] == ["101_0"]
    assert controller.accepted == ["101_0"]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    fake = FakeSlurm(tmp_path / "bin", executes=True)
    monkeypatch.setenv("PATH", str(fake.directory), prepend=":")
    yield fake
    fake.close()


def _take_the_shell_along(times: int, attempt: Attempt) -> int:
    if attempt.number <= times:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt.number


def test_waiting_for_a_result_brings_back_what_died_with_its_script(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    """Whole processes: jobs whose batch script is killed, one of them forgotten by Slurm."""
    jobs = []
    for name in ("requeued", "forgotten"):
        executor = RobustExecutor(tmp_path / name, "slurm", budgets=Budgets(killed=2))
        jobs.append(executor.submit(_take_the_shell_along, 1))
    wait(lambda: all(_state(job) == "FAILED" for job in jobs), "both to die")
    assert [_causes(job.member) for job in jobs] == [[None], [None]]
    requeued, forgotten = jobs
    # Two commands at once: one requeue.
    with ThreadPoolExecutor(2) as threads:
        watches = [Watch(requeued.stage.run, looks=2, apart=0.2) for _ in range(2)]
        notices = [n for found in threads.map(Watch.insist, watches) for n in found]
    assert len(notices) == 1
    assert len(fake.calls("scontrol requeue")) == 1
    fake.forget()
    assert [job.result() for job in jobs] == [2, 2]
    for job in jobs:
        assert _causes(job.member) == [Cause.KILLED, Cause.FINISHED]
        assert job.member.ledger.spent() == {Cause.KILLED: 1}
    assert len(fake.calls("scontrol requeue")) == 1
    assert len(fake.jobs()) == 3
    assert forgotten.job_id == "102_0"


def _state(job: RobustJob) -> str:
    return slurm.queued_states([job.job_id])[job.job_id]


@pytest.mark.parametrize("looks", range(1, 6))
def test_a_member_that_starts_again_while_it_is_looked_at_has_not_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    ledger = stage.member(0).ledger
    ledger.queued()
    ledger.end(ledger.start({"host": "n0", "pid": 1}), Cause.KILLED)
    read, left = Ledger.events, [*range(looks)]

    def then_starts(self: Ledger) -> Sequence[dict[str, Any]]:
        events = read(self)
        if left and left.pop() == 0:
            self._append("start", attempt=2, where={"host": "n0", "pid": 1})
        return events

    monkeypatch.setattr(Ledger, "events", then_starts)
    assert not RobustJob(stage, 0).done()
