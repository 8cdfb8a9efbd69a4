"""Laws of the status of a run: one look at each ledger, one question to Slurm."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import Commands

from cluster.cause import Cause
from cluster.records.ledger import here
from cluster.records.machine import birth
from cluster.records.member import Member
from cluster.scheduler.slurm import SlurmError
from cluster.stage import Stage
from cluster.status import State, run_status


def _ends(*causes: Cause) -> Callable[[Member], None]:
    def note(member: Member) -> None:
        for cause in causes:
            member.ledger.end(member.ledger.start({"host": "n0", "pid": 1}), cause)

    return note


def _runs(member: Member) -> None:
    member.ledger.start({"host": "n0", "pid": 1})


def _is_cancelled(member: Member) -> None:
    member.ledger.cancel()


#: What has become of a member that was sent, what squeue says of it, and where it then stands.
CASES: list[tuple[Callable[[Member], None], str | None, State]] = [
    (_ends(), "PENDING", State.QUEUED),
    (_ends(), None, State.LOST),
    (_runs, "RUNNING", State.RUNNING),
    (_runs, None, State.LOST),
    (_ends(Cause.PREEMPTION), "PENDING", State.WAITING),
    (_ends(Cause.PREEMPTION, Cause.TIMEOUT, Cause.FINISHED), None, State.FINISHED),
    (_ends(Cause.ERROR), None, State.FAILED),
    (_is_cancelled, None, State.CANCELLED),
]


def _send(stage: Stage, array: str) -> None:
    stage.save()
    stage.submissions.queued(range(stage.members))
    stage.submissions.sent(range(stage.members), array, 0, "a.sh")


def test_every_member_stands_where_ledger_and_queue_say_in_one_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [Stage(tmp_path / "run", name, n, len(CASES)) for n, name in enumerate("ab")]
    rows = []
    for stage, array in zip(stages, ("17", "18"), strict=True):
        _send(stage, array)
        for member, (happens, queued, _) in zip(stage, CASES, strict=True):
            happens(member)
            rows += [f"{array}_{member.index}|{queued}"] if queued else []
    commands = Commands(tmp_path / "bin", monkeypatch)
    commands.add("squeue", "printf '%s\\n' " + " ".join(f"'{row}'" for row in rows))
    found = run_status(tmp_path / "run")
    assert [(m.stage, m.index) for m in found] == [(s.name, m.index) for s in stages for m in s]
    assert [m.state for m in found] == [state for *_, state in CASES] * 2
    assert [m.job_id for m in found[:2]] == ["17_0", "17_1"]
    (asked,) = commands.calls("squeue")
    assert asked.endswith("--jobs=17,18")


def test_a_run_that_has_finished_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path / "run", "a", members=2)
    _send(stage, "17")
    commands = Commands(tmp_path / "bin", monkeypatch)
    commands.add("squeue", "exit 1")
    with pytest.raises(SlurmError):
        run_status(stage.run)
    for member in stage:
        _ends(Cause.FINISHED)(member)
    assert {m.state for m in run_status(stage.run)} == {State.FINISHED}
    assert len(commands.calls("squeue")) == 1


def test_a_member_runs_on_however_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, "train", members=2)
    stage.save()
    with subprocess.Popen(["sleep", "100"]) as process:
        where, now = here(process.pid), time.time()
        for member, changed in zip(stage, ({}, {"born": birth(os.getpid())}), strict=True):
            member.ledger.queued()
            # As after an hour of sleep, when processes seem younger than their ledger.
            with monkeypatch.context() as earlier:
                earlier.setattr(time, "time", lambda: now - 3600)
                member.ledger.start(where | changed)
        # The second one's number went to another process.
        assert [found.state for found in run_status(tmp_path)] == [State.RUNNING, State.LOST]
        process.kill()
    assert birth(process.pid) is None
    assert [found.state for found in run_status(tmp_path)] == [State.LOST, State.LOST]
