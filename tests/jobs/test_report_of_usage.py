"""``report``: what it prints and writes as JSON, of a real run and of one that was told."""

import json
import shutil
from pathlib import Path

import pytest

from cluster.accounts.advice import Advice, Setting
from cluster.accounts.bookkeeping import run_usage
from cluster.scheduler.quantities import duration
from jobs.advising import setting
from jobs.cli import main


def test_a_run_on_this_machine_is_reported(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(smoke_run, tmp_path / "elsewhere")
    assert main(["report", str(copy), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["accounting"] is None
    assert [stage["name"] for stage in record["stages"]] == [
        *("simulate", "train", "assimilate", "collect")
    ]
    for member in record["members"]:
        (attempt,) = member["ends"]
        assert attempt["cause"] == "finished"
        assert sum(member["parts"].values()) == pytest.approx(member["allocated"])
        assert member["parts"]["lost"] == 0
        assert 0 < member["goodput"] <= 1
        assert 50 < member["peak"] < 4096
        assert member["cpu_efficiency"] > 0
    took = sum(stage["allocated"] for stage in record["stages"])
    assert sum(member["allocated"] for member in record["members"]) == pytest.approx(took)


def test_rows_are_those_of_the_members_asked_for(
    smoke_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(smoke_run), "--member", "train", "--no-html"]) == 0
    header, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["train/0000", "train/0001", "train: 2"]
    assert {len(row) for row in rows} == {len(header)}


def test_nothing_is_made_by_looking(smoke_run: Path) -> None:
    before = {path: path.stat().st_mtime for path in smoke_run.rglob("*")}
    run_usage(smoke_run)
    assert {path: path.stat().st_mtime for path in smoke_run.rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "value", "for_job", "for_executor"),
    [
        ("memory", 1280, "resources.train.memory=1280M", "update_parameters(mem_gb=1.25)"),
        ("time", 5400, "resources.train.time=01:30:00", "update_parameters(timeout_min=90)"),
        (
            "signal_delay",
            180,
            "resources.train.signal_delay=180",
            "update_parameters(slurm_signal_delay_s=180)",
        ),
        (
            "checkpoint_seconds",
            80,
            "resources.train.checkpoint_seconds=80",
            "checkpoint_seconds=80",
        ),
        ("cpus", 2, "resources.train.cpus=2", "update_parameters(cpus_per_task=2)"),
        ("microbatch", 4, "microbatch of the work to 4", "microbatch of the work to 4"),
        ("step", None, "shorter steps", "shorter steps"),
    ],
)
def test_advice_names_what_to_write(
    tmp_path: Path, name: Setting, value: int | None, for_job: str, for_executor: str
) -> None:
    line = Advice("train", name, value, "because", "much")
    assert for_executor in setting(tmp_path, line)
    (tmp_path / "plan.yaml").touch()
    assert for_job in setting(tmp_path, line)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0s"), (4.21, "4.2s"), (59.99, "1:00"), (725.4, "12:05"), (111720.0, "31h02")],
)
def test_durations_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text
