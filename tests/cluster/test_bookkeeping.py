"""What ledgers, files and accounting say together of members' time."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.commands import Commands

from cluster import Cause
from cluster.accounts.bookkeeping import run_usage
from cluster.accounts.timeline import Parts
from cluster.accounts.usage import MemberUsage
from cluster.stage import Stage

T0 = 1_700_000_000.0
SLURM = {"array_job_id": "17", "array_task_id": "0", "mem_per_node": "2048", "cpus_on_node": "4"}


class Story:
    """A member whose ledger is told line by line, at seconds after ``T0``."""

    def __init__(self, run: Path, order: int = 0) -> None:
        self.run, stage = run, Stage(run, "train", order=order, members=1, cpus=2)
        stage.save()
        self.member = stage.member(0)
        self.member.logs.mkdir(parents=True)

    def tell(self, seconds: float, event: str, attempt: int | None = None, **fields: Any) -> None:
        known = {} if attempt is None else {"attempt": attempt}
        line = {"event": event, "time": T0 + seconds, **known, **fields}
        with self.member.ledger.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def start(self, seconds: float, attempt: int, slurm: dict[str, str] | None = None) -> None:
        self.tell(seconds, "start", attempt, where={"host": "n0", "pid": 1, "slurm": slurm or {}})

    def steps(
        self, seconds: float, attempt: int, step: int = 0, saved: float | None = None
    ) -> None:
        moment = None if saved is None else T0 + saved
        self.tell(seconds, "steps", attempt, step=step, of=100, saved=moment)

    def end(self, seconds: float, attempt: int, cause: str, **detail: Any) -> None:
        self.tell(seconds, "end", attempt, cause=cause, **detail)

    def touch(self, path: Path, seconds: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (T0 + seconds, T0 + seconds))

    def usage(self) -> MemberUsage:
        (stage,) = run_usage(self.run).stages
        return stage.members[0]


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_steps_after_the_checkpoint_that_is_gone_on_from_are_lost(story: Story) -> None:
    story.tell(0, "queued")
    story.start(10, 1)
    story.steps(13, 1)
    story.end(60, 1, "killed", status=137)
    story.start(75, 2)
    story.steps(79, 2, step=40, saved=50)
    story.tell(100, "usage", 2, peak_mib=300, cpu_seconds=30.0, saving_seconds=1.0)
    story.end(101, 2, "finished", step=100)
    member = story.usage()
    assert [attempt.parts for attempt in member.attempts] == [
        Parts(useful=37, lost=10, startup=3),
        Parts(useful=21, saving=1, startup=4),
    ]
    assert [attempt.waited for attempt in member.attempts] == [10, 15]
    totals = member.totals
    assert totals.parts.goodput == pytest.approx(58 / 76)
    assert list(totals.waste.items()) == [
        ("redone after killed", 10),
        ("start-up", 7),
        ("saving", 1),
    ]
    assert totals.core_hours == pytest.approx(2 * 76 / 3600)
    assert (totals.peak, totals.memory, totals.gpu_hours) == (300, None, None)
    assert totals.cpu_efficiency == pytest.approx(30 / 52)
    assert totals.causes == {"killed": 1}


def test_a_torn_checkpoint_loses_what_several_attempts_did(story: Story) -> None:
    story.start(0, 1)
    story.steps(0, 1)
    story.end(50, 1, "killed")
    story.start(50, 2)
    story.steps(50, 2, step=40, saved=45)
    story.end(80, 2, "killed")
    story.start(80, 3)
    story.end(90, 3, "node_failure")  # it came to no step, and says nothing
    story.start(90, 4)
    story.steps(95, 4, step=20, saved=30)
    story.end(100, 4, "finished", step=100)
    parts = [attempt.parts for attempt in story.usage().attempts]
    assert [p.useful for p in parts] == [30, 0, 0, 5]
    assert [p.lost for p in parts] == [20, 30, 0, 0]
    assert [p.startup for p in parts] == [0, 0, 10, 5]


def test_a_stop_that_was_answered_loses_nothing(story: Story) -> None:
    story.start(0, 1)
    story.steps(2, 1)
    story.end(30, 1, "timeout", step=50, signal=10)
    assert story.usage().attempts[0].parts == Parts(useful=28, startup=2)
    story.start(40, 2)
    story.steps(41, 2, step=50, saved=29)
    story.end(50, 2, "finished", step=100)
    assert story.usage().attempts[0].parts == Parts(useful=27, startup=2, rest=1)


def test_work_after_the_last_checkpoint_of_a_failed_member_is_lost(story: Story) -> None:
    story.start(0, 1)
    story.steps(10, 1)
    story.end(100, 1, "error", step=9, error="no")
    assert story.usage().attempts[0].parts == Parts(lost=90, startup=10)
    story.touch(story.member.checkpoints / "000000000005-00.pt", 60)
    assert story.usage().attempts[0].parts == Parts(useful=50, lost=40, startup=10)
    story.tell(200, "queued")
    story.start(230, 2)
    assert [attempt.waited for attempt in story.usage().attempts] == [None, 30]


def test_a_function_without_steps_is_kept_whole_or_redone_whole(story: Story) -> None:
    story.start(0, 1)
    story.end(30, 1, "killed")
    story.start(40, 2)
    story.end(60, 2, "finished", step=0)
    first, second = story.usage().attempts
    assert (first.parts, second.parts) == (Parts(lost=30), Parts(useful=20))


def test_an_end_that_nobody_noted_is_the_last_sign_of_life(story: Story) -> None:
    story.start(0, 1, SLURM)
    story.steps(5, 1)
    story.touch(story.member.logs / "0001.log", 50)
    member = story.usage()
    assert (member.attempts[0].parts.allocated, member.attempts[0].estimated) == (50, True)
    story.member.progress_file.write_text('{"step": 7, "of": 28, "attempt": 1}')
    story.touch(story.member.progress_file, 55)
    assert story.usage().attempts[0].parts.allocated == 55
    assert story.usage().done == 0.25
    story.end(300, 1, "node_failure", slurm_state="NODE_FAIL")
    story.start(300, 2, SLURM)
    lost = story.usage().attempts[0]
    assert (lost.parts.allocated, lost.estimated, lost.cause) == (55, True, Cause.NODE_FAILURE)


def _accounting(directory: Path, patch: pytest.MonkeyPatch, *rows: tuple[float, float]) -> None:
    commands = Commands(directory / "bin", patch)
    lines = []
    for start, end in rows:
        given = "billing=8,cpu=8,gres/gpu=2,mem=2G,node=1"
        spans = "|".join(map(_clock, (start - 5, start, end)))
        lines.append(f"17_0|COMPLETED|{spans}|60|{given}|01:00.000|||1")
        lines.append(f"17_0.0|COMPLETED|{spans}||{given}|01:00.000|512000K|1|1")
    (directory / "rows").write_text("\n".join(lines) + "\n")
    commands.add("sacct", f'cat "{directory}/rows"')


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(T0 + seconds).strftime("%Y-%m-%dT%H:%M:%S")


def test_accounting_knows_what_the_ledger_cannot(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accounting(tmp_path, monkeypatch, (-8, 70), (90, 160))
    story.tell(-100, "queued")
    story.start(0, 1, SLURM)
    story.steps(2, 1)
    story.touch(story.member.logs / "0001.log", 30)
    story.end(100, 1, "node_failure", slurm_state="NODE_FAIL")
    story.start(100, 2, SLURM)
    story.steps(105, 2, step=10, saved=22)
    story.end(155, 2, "finished", step=100)
    first, second = story.usage().attempts
    assert first.parts == Parts(useful=20, lost=48, startup=10)
    assert second.parts == Parts(useful=50, startup=15, rest=5)
    assert not first.estimated
    assert (first.waited, second.waited) == (5, 20)
    assert (first.cpus, first.gpus, first.limit, first.memory) == (8, 2, 3600.0, 2048)
    assert (first.peak, first.sampled, first.cpu_seconds) == (500.0, True, 60.0)


def test_rows_of_another_cluster_are_not_taken_for_ours(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accounting(tmp_path, monkeypatch, (-9000, -8000))
    story.start(0, 1, SLURM)
    story.end(50, 1, "finished", step=0)
    (attempt,) = story.usage().attempts
    assert (attempt.parts, attempt.cpus, attempt.peak) == (Parts(useful=50), 4, None)


def test_a_later_stage_does_not_wait_in_a_queue_for_the_one_before(tmp_path: Path) -> None:
    story = Story(tmp_path, order=1)
    story.tell(0, "queued")
    story.start(1000, 1)
    assert story.usage().attempts[0].waited is None
