"""Laws of sending: every script accepted once and known by its id, or nothing left of any."""

from pathlib import Path
from typing import Any

import pytest
from support.fake_slurm import FakeSlurm

from cluster import RobustExecutor
from cluster import executor as executor_module
from cluster.calls import Call
from cluster.scheduler import slurm
from cluster.scheduler.accounting import SubmitLimit
from cluster.scheduler.limits import Limits, SubmitLimitError
from cluster.scheduler.patience import Patience
from cluster.submitting.sending import Sender

QUICK = Patience(tries=4, first=0.001)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin", array_size=4)
    monkeypatch.setenv("PATH", str(fake.directory), prepend=":")
    monkeypatch.setattr(executor_module, "PATIENCE", QUICK)
    return fake


def _executor(run: Path, **parameters: Any) -> RobustExecutor:
    executor = RobustExecutor(run, "slurm")
    executor.update_parameters(slurm_partition="gpu", **parameters)
    return executor


def _send_ten(run: Path, **parameters: Any) -> tuple[RobustExecutor, list[str]]:
    executor = _executor(run, **parameters)
    return executor, [job.job_id for job in executor.map_array(divmod, range(10), [3] * 10)]


def _tree(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def test_members_are_sent_in_arrays_that_the_cluster_takes(fake: FakeSlurm, tmp_path: Path) -> None:
    _, ids = _send_ten(tmp_path / "run")
    arrays = [100] * 4 + [101] * 4 + [102] * 2
    assert ids == [f"{array}_{n % 4}" for n, array in enumerate(arrays)]
    assert [job["elements"] for job in fake.jobs()] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    assert len({job["comment"] for job in fake.jobs()}) == 3


@pytest.mark.parametrize(
    "faults", [["busy"], ["down", "full", "busy"], ["lost"], ["down", "lost"], ["killed"]]
)
def test_a_fault_of_the_moment_costs_nothing(
    fake: FakeSlurm, tmp_path: Path, faults: list[str]
) -> None:
    fake.set(faults=["", *faults])
    _, ids = _send_ten(tmp_path / "run")
    assert [len(job["elements"]) for job in fake.jobs("PENDING")] == [4, 4, 2]
    assert [job["id"] for job in fake.jobs()] == ["100", "101", "102"]
    assert ids[4:8] == [f"101_{n}" for n in range(4)]


def test_a_job_that_the_queue_forgot_is_found_in_accounting(fake: FakeSlurm) -> None:
    fake.set(
        jobs=[
            {
                "id": "207",
                "state": "FORGOTTEN",
                "comment": "",
                "elements": [0, 1],
                "called": "sbatch --parsable --comment=mine yaoki:7f a.sh",
            }
        ]
    )
    assert list(dict.fromkeys(slurm.commented("yaoki:7f"))) == ["207"]
    assert slurm.commented("yaoki:8a") == []


def test_what_arrives_late_is_not_run_twice(fake: FakeSlurm, tmp_path: Path) -> None:
    # The controller takes a submission that was given up just before the one that follows it.
    fake.set(faults=["late"])
    _, ids = _send_ten(tmp_path / "run")
    assert [len(job["elements"]) for job in fake.jobs("PENDING")] == [4, 4, 2]
    assert {job["id"] for job in fake.jobs("PENDING")} == {i.split("_")[0] for i in ids}
    (doubled,) = fake.jobs("CANCELLED")
    assert doubled["id"] == "100"


@pytest.mark.parametrize(
    "faults", [["", "", "refused"], ["", "lost", "refused"], ["refused"], ["", "late", "refused"]]
)
def test_a_refusal_leaves_nothing_behind(
    fake: FakeSlurm, tmp_path: Path, faults: list[str]
) -> None:
    fake.set(faults=faults)
    run = tmp_path / "run"
    with pytest.raises(slurm.SlurmError, match="Invalid partition"):
        _send_ten(run)
    assert fake.jobs("PENDING") == []
    assert len(fake.calls("sbatch")) == len(faults)
    assert _tree(run) == []
    # And the same members can be sent as if nothing had been.
    _, ids = _send_ten(run)
    assert len(ids) == len(set(ids)) == 10


def test_members_that_were_there_before_are_kept_and_withdrawn(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    executor = _executor(tmp_path / "run")
    jobs = executor.lay_out([Call(divmod, (7, 2))] * 10)
    before = _tree(tmp_path / "run")
    fake.set(faults=["", "", "refused"])
    with pytest.raises(slurm.SlurmError):
        executor.send(range(10))
    assert _tree(tmp_path / "run") == sorted([*before, "members/job/submissions.jsonl"])
    assert not any(job.member.ledger.wanted() for job in jobs)


def test_a_refusal_takes_back_what_came_with_it_and_nothing_else(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    executor, _ = _send_ten(tmp_path / "run")
    before = _tree(tmp_path / "run")
    fake.set(faults=["", "refused"])
    with pytest.raises(slurm.SlurmError):
        executor.map_array(pow, range(6), [2] * 6)
    assert _tree(tmp_path / "run") == before
    assert all(member.ledger.wanted() for member in executor.stage)
    again = executor.map_array(pow, range(6), [2] * 6)
    calls = [Call.load(job.member) for job in again]
    assert [(call.function, *call.args) for call in calls] == [(pow, n, 2) for n in range(6)]
    assert [job.member.ledger.last_job_id() for job in again] == [job.job_id for job in again]


def test_a_controller_that_stays_away_is_given_up(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(faults=["", *["down"] * 20])
    with pytest.raises(slurm.SlurmBusyError, match="Unable to contact"):
        _send_ten(tmp_path / "run")
    assert len(fake.calls("sbatch")) == 1 + QUICK.tries
    assert fake.jobs("PENDING") == []
    assert _tree(tmp_path / "run") == []


def test_an_answer_lost_at_the_last_try_is_taken_back(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(faults=["", "down", "down", "down", "lost"])
    with pytest.raises(slurm.SlurmBusyError, match="Socket timed out"):
        _send_ten(tmp_path / "run")
    assert [job["state"] for job in fake.jobs()] == ["CANCELLED", "CANCELLED"]


def test_an_interrupt_takes_back_what_was_sent(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(faults=["", "interrupted"])
    with pytest.raises(KeyboardInterrupt):
        _send_ten(tmp_path / "run")
    assert [job["state"] for job in fake.jobs()] == ["CANCELLED", "CANCELLED"]
    assert _tree(tmp_path / "run") == []


def test_what_cannot_be_taken_back_is_named(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(faults=["", "refused"])
    scancel = fake.directory / "scancel"
    scancel.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    with pytest.raises(slurm.SlurmError, match="Invalid partition") as caught:
        _send_ten(tmp_path / "run")
    assert "cancel it: 100 (" in caught.value.__notes__[0]


def test_a_users_comment_is_kept(fake: FakeSlurm, tmp_path: Path) -> None:
    _send_ten(tmp_path / "run", slurm_comment="for the paper")
    assert all(job["comment"].startswith("for the paper yaoki:") for job in fake.jobs())


def test_chunks_beyond_the_parallelism_wait_for_one_another(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    waiting = {"dependency": "afterok:7"}
    parameters = {"slurm_array_parallelism": 2, "slurm_additional_parameters": waiting}
    _send_ten(tmp_path / "run", **parameters)
    assert [job["throttle"] for job in fake.jobs()] == ["1", "1", "1"]
    chain = [job["dependency"] for job in fake.jobs()]
    assert chain == ["afterok:7", "afterok:7", "afterok:7,afterany:100"]
    for job, path in zip(fake.jobs(), sorted((tmp_path / "run/scripts").iterdir()), strict=True):
        assert path.read_text() == job["text"]


def _limited(jobs: int) -> Limits:
    return Limits(4, (SubmitLimit("MaxSubmitJobs of user 'ada'", jobs, ("--me",)),))


def test_too_many_members_are_refused_before_anything_is_sent(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    executor = _executor(tmp_path / "run")
    executor.lay_out([Call(divmod, (7, 2))] * 10)
    scripts = executor.scripts(range(10))
    Sender(executor.stage, _limited(10)).send(scripts[2:])
    with pytest.raises(SubmitLimitError, match=r"for 8 members.*user 'ada' is 9, of which 2 are"):
        Sender(executor.stage, _limited(9)).send(scripts[:2])
    assert len(fake.calls("sbatch")) == 1
    assert len(fake.jobs("PENDING")) == 1


def test_members_are_sent_as_room_comes(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(submit_limit=5, ends_when_asked=True)
    executor = _executor(tmp_path / "run")
    executor.lay_out([Call(divmod, (7, 2))] * 10)
    limits = _limited(5)
    scripts = executor._render(range(10), "", limits)
    ids = Sender(executor.stage, limits, True, QUICK, room_seconds=0.001).send(scripts)
    assert len(ids) == len(scripts) == 5
    assert sum(len(job["elements"]) for job in fake.jobs()) == 10
