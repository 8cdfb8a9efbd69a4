"""What a launcher hands on: the rules of a stage, at first and when they change."""

from pathlib import Path

import pytest
from support.fake_slurm import FakeSlurm

from cluster import HostMemory
from cluster.memory.hostmemory import Order
from cluster.stage import Stage
from jobs.catalog import WORKLOADS
from jobs.cli import main
from jobs.launch import Launcher
from pipelines.plan import Plan

SMOKE = ("diffusion", "--preset", "smoke")


def _plan(runs: Path, *overrides: str) -> Plan:
    workload = WORKLOADS["diffusion"]
    return workload.plan(workload.resolve("smoke", overrides).config, runs)


def test_a_run_that_goes_on_with_other_resources_takes_them_over(tmp_path: Path) -> None:
    first = _plan(tmp_path)
    Launcher(first, "local").lay_out()
    assert Stage.load(first.directory, "train").host_memory == HostMemory()
    changed = _plan(
        tmp_path,
        "resources.train.host_memory={order: memory only, memory_cap: 2.0}",
        "resources.train.budgets.killed=3",
        "resources.train.keep=4",
        "resources.train.keep_bytes=1G",
        "resources.train.checkpoint_seconds=7.0",
    )
    assert changed.directory == first.directory
    Launcher(changed, "local").lay_out()
    rules = Stage.load(first.directory, "train")
    assert rules.host_memory == HostMemory(Order.MEMORY_ONLY, memory_cap=2.0)
    assert (rules.budgets.killed, rules.keep, rules.keep_bytes) == (3, 4, 1024**3)
    assert rules.checkpoint_seconds == 7.0
    assert Stage.load(first.directory, "simulate").host_memory == HostMemory()


def test_where_slurm_has_no_room_the_option_that_waits_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(fake.directory), prepend=":")
    monkeypatch.setenv("LOGNAME", "ada")
    user = [{"name": "ada", "defaultaccount": "waves"}]
    association = {"user": "ada", "account": "waves", "maxsubmit": "3", "parentname": ""}
    fake.set(books={"user": user, "associations": [association], "qos": []})
    submit = ["submit", *SMOKE, "--runs", str(tmp_path / "runs")]
    assert main(submit) == 69
    assert "'yaoki submit --wait-for-room'" in capsys.readouterr().err
    assert fake.jobs("PENDING") == []
    fake.set(ends_when_asked=True)
    assert main([*submit, "--wait-for-room"]) == 0
    assert [len(job["elements"]) for job in fake.jobs("PENDING", "COMPLETED")] == [2, 2, 2, 1]


def test_the_executor_of_every_stage_waits_for_room_where_asked(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    for wait in (False, True):
        launcher = Launcher(plan, "slurm", wait_for_room=wait)
        assert {launcher.executor(stage).wait_for_room for stage in plan.stages} == {wait}
