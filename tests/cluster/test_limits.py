"""Which bounds hold for the arrays of a user, as Slurm itself would find."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_slurm import FakeSlurm

from cluster import RobustExecutor
from cluster.scheduler import limits, slurm
from cluster.scheduler.accounting import SubmitLimit
from cluster.scheduler.limits import Limits, SubmitLimitError

ROWS: dict[str, list[dict[str, str]]] = {
    "user": [{"name": "ada", "defaultaccount": "waves"}],
    "associations": [
        {"account": "root", "parentname": "", "grpsubmit": ""},
        {"account": "physics", "parentname": "root", "grpsubmit": "500"},
        {"account": "waves", "parentname": "physics", "grpsubmit": ""},
        {"user": "ada", "account": "waves", "maxsubmit": "40", "defaultqos": "normal"},
        {"user": "ada", "account": "other", "maxsubmit": "7", "partition": "gpu"},
        {"user": "ada", "account": "other", "maxsubmit": "70"},
    ],
    "qos": [
        {"name": "normal"},
        {"name": "tight", "maxsubmitpu": "25", "maxsubmitpa": "77", "grpsubmit": "90"},
        {"name": "over", "maxsubmitpu": "9", "flags": "DenyOnLimit,OverPartQOS"},
        {"name": "part", "maxsubmitpu": "12"},
    ],
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin", array_size=1001)
    monkeypatch.setenv("PATH", str(fake.directory), prepend=":")
    monkeypatch.setenv("LOGNAME", "ada")
    fake.set(books=ROWS)
    return fake


OWN = {"MaxSubmitJobs of user 'ada' in account 'waves'": 40}
ABOVE = {"GrpSubmitJobs of account 'physics'": 500}
OF_USER = {"MaxSubmitJobsPerUser of QOS 'tight'": 25}
OF_OTHERS = {
    "MaxSubmitJobsPerAccount of QOS 'tight'": 77,
    "GrpSubmitJobs of QOS 'tight'": 90,
}


@pytest.mark.parametrize(
    ("placement", "partition_qos", "found"),
    [
        ({}, "N/A", OWN | ABOVE),
        # A QOS takes the place of what an association says of the same.
        ({"qos": "tight"}, "N/A", OF_USER | OF_OTHERS),
        # A partition's QOS goes before the job's, unless that one is over it.
        ({"qos": "tight"}, "part", {"MaxSubmitJobsPerUser of QOS 'part'": 12} | OF_OTHERS),
        ({"qos": "over"}, "part", {"MaxSubmitJobsPerUser of QOS 'over'": 9} | ABOVE),
        # An association with one partition alone goes before the general one.
        (
            {"account": "other", "partition": "gpu"},
            "N/A",
            {"MaxSubmitJobs of user 'ada' in account 'other'": 7},
        ),
        (
            {"account": "other", "partition": "cpu"},
            "N/A",
            {"MaxSubmitJobs of user 'ada' in account 'other'": 70},
        ),
    ],
)
def test_of_several_bounds_those_hold_that_slurm_comes_to_first(
    fake: FakeSlurm, placement: Mapping[str, str], partition_qos: str, found: dict[str, int]
) -> None:
    fake.set(partition_qos=partition_qos)
    assert {limit.name: limit.jobs for limit in limits.ask(**placement).submit} == found


def test_where_accounting_is_silent_no_bound_is_known(fake: FakeSlurm) -> None:
    fake.set(books={"user": ROWS["user"]})
    assert limits.ask() == Limits(1001)
    (fake.directory / "sacctmgr").write_text("#!/bin/sh\nexit 127\n")
    assert limits.ask() == Limits(1001)


def test_a_slurm_that_enforces_nothing_is_not_asked(fake: FakeSlurm) -> None:
    fake.set(books={})
    assert limits.ask() == Limits(1001)
    assert fake.calls("sacctmgr") == []


@pytest.mark.parametrize(
    ("scheduler", "size"), [("(null)", 1001), ("defer,max_array_tasks=300,bf_interval=2", 300)]
)
def test_a_site_may_bound_arrays_below_their_largest_index(
    fake: FakeSlurm, scheduler: str, size: int
) -> None:
    fake.set(scheduler=scheduler)
    assert limits.ask().array_size == size


def test_a_slurm_without_arrays_is_refused(fake: FakeSlurm) -> None:
    fake.set(array_size=0)
    with pytest.raises(slurm.SlurmError, match="MaxArraySize: expected at least 1, found 0"):
        limits.ask()


def test_each_bound_counts_its_own_jobs(fake: FakeSlurm) -> None:
    job = {"id": "17", "comment": "", "elements": [0, 1, 2], "state": "PENDING"}
    fake.set(jobs=[job])
    assert [limit.taken() for limit in limits.ask().submit] == [3, 3]
    asked = [call.split("--format=%i ")[1] for call in fake.calls("squeue")]
    assert asked == ["--user=ada --account=waves", "--account=physics"]


@given(st.integers(1, 100_000), st.integers(1, 5000), st.lists(st.integers(0, 9000), max_size=3))
def test_a_chunk_fits_into_an_array_and_into_the_queue(
    members: int, size: int, bounds: list[int]
) -> None:
    found = Limits(size, tuple(SubmitLimit("limit", jobs, ()) for jobs in bounds))
    chunk = found.chunk(members)
    assert 1 <= chunk <= size
    assert all(min(chunk, members) <= max(jobs, 1) for jobs in bounds)
    if all(members <= jobs for jobs in bounds):
        assert chunk == size


def test_the_variables_of_sbatch_go_before_the_script(
    fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = RobustExecutor(tmp_path / "run", "slurm")
    executor.update_parameters(slurm_account="waves", slurm_qos="normal")
    monkeypatch.setenv("SBATCH_QOS", "tight")

    def divide(*_: Any) -> None: ...

    with pytest.raises(SubmitLimitError, match=r"for 26 members.*PerUser of QOS 'tight' is 25"):
        executor.map_array(divide, range(26))
    assert fake.calls("sbatch") == []
    assert [p for p in (tmp_path / "run").rglob("*") if p.is_file()] == []
