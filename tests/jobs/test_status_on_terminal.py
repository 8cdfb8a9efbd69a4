"""``status`` and ``report`` at a terminal of 80 columns and 24 lines."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.commandline import COMMAND
from support.terminal import Terminal

from cluster.cause import Cause
from cluster.records.ledger import here
from cluster.stage import Stage
from cluster.status import MemberStatus, State
from cluster.stopping.deadline import Overdue
from jobs.cli import main
from jobs.commands.overview import Pace
from jobs.solitude import seen_status

MEMBERS, RUNNING, FAILED = 200, 40, 30
REASON = "ValueError: the loss is not finite " * 5


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for all members that run."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def run(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> Path:
    """A run of many members, some of which run and some have failed."""
    stage = Stage(tmp_path / "run", "train", members=MEMBERS)
    stage.save()
    for member in [stage.member(index) for index in range(RUNNING + FAILED)]:
        member.directory.mkdir()
        member.ledger.queued()
        number = member.ledger.start(here(sleeper.pid))
        progress = {"step": member.index, "of": 100, "attempt": number}
        member.progress_file.write_text(json.dumps(progress))
        if member.index >= RUNNING:
            member.ledger.end(number, Cause.ERROR, error=REASON)
    return stage.run


@pytest.fixture
def at_terminal() -> Iterator[Callable[..., Terminal]]:
    """Starts commands at terminals of their own, which are ended with the test."""
    with ExitStack() as terminals:
        yield lambda *words: terminals.enter_context(Terminal([*COMMAND, *map(str, words)]))


def test_many_members_are_watched_on_one_screen(
    run: Path, sleeper: subprocess.Popen[bytes], at_terminal: Callable[..., Terminal]
) -> None:
    terminal = at_terminal("status", run, "--watch")
    terminal.read_until("and 23 more: 'yaoki status --failed'")
    assert max(map(len, terminal.text.splitlines())) <= 80
    assert "and 32 more: 'yaoki status --state running'" in terminal.text
    assert "train/0000" in terminal.text  # the first that runs, and the first that failed
    assert "train/0040 failed error ValueError: the loss" in terminal.text
    member = Stage.load(run, "train").member(0)
    member.progress_file.write_text('{"step": 50, "of": 100, "attempt": 1}')
    terminal.read_until("50/100")
    terminal.read_until("left")
    sleeper.kill()
    sleeper.wait()
    assert terminal.wait() == 1
    assert 0 < terminal.tallest < 24
    last = terminal.text[terminal.text.rindex("stage") :]
    assert f"{MEMBERS - RUNNING - FAILED}" in last
    assert "running" not in last


def test_ctrl_c_leaves_the_terminal_as_it_was(
    run: Path, at_terminal: Callable[..., Terminal]
) -> None:
    terminal = at_terminal("status", run, "--watch")
    terminal.read_until("ended short")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert terminal.output.rindex("\x1b[?25h") > terminal.output.rindex("\x1b[?25l")
    assert terminal.text.endswith("yaoki: interrupted\n")
    assert "Traceback" not in terminal.text


def test_members_in_a_state_are_shown_one_by_one(
    run: Path, at_terminal: Callable[..., Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = at_terminal("status", run, "--failed")
    assert terminal.wait() == 1
    assert all(f"train/{index:04d}" in terminal.text for index in range(RUNNING, RUNNING + FAILED))
    assert "train/0000" not in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= 80
    assert main(["status", str(run), "--state", "running", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["members"]
    assert [row["index"] for row in rows] == list(range(RUNNING))
    main(["status", str(run), "--state", "finished"])
    assert capsys.readouterr().out == ""
    assert main(["status", str(run), "--stage", "trian"]) == 2
    assert "expected a stage (train), found 'trian'" in capsys.readouterr().err


def test_members_of_an_executor_wait_for_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "job", members=1)
    stage.save()
    stage.member(0).directory.mkdir()
    stage.member(0).ledger.queued()
    assert [member.state for member in seen_status(tmp_path)] == [State.QUEUED]
    (tmp_path / "plan.yaml").touch()  # a launcher's, and it is gone
    assert [member.state for member in seen_status(tmp_path)] == [State.LOST]


def test_a_stop_that_was_not_answered_is_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = Overdue(17, False, seconds=24.2, waited=16.0, grace=20.0, signal=signal.SIGUSR2)
    stage = Stage.load(run, "train")
    for index in (0, RUNNING):
        stage.member(index).ledger.overdue(1, **asdict(late))
    main(["status", str(run)])
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][-1] == (
        "attempt 1: SIGUSR2 not answered in time: step 17 took over 24 s, the grace is 20 s; "
        "longer signal_delay or smaller steps"
    )
    assert rows[RUNNING][-1] == REASON  # why it ended tells more


def test_a_report_fits_the_terminal(run: Path, at_terminal: Callable[..., Terminal]) -> None:
    members = Stage.load(run, "train")
    replace(members, members=3).save()
    terminal = at_terminal("report", run, "--no-html")  # a path is not broken into lines
    assert terminal.wait() == 0
    assert "train/0002" in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= 80


def test_seconds_left_follow_from_the_steps_seen() -> None:
    seen = MemberStatus("train", 0, State.RUNNING, 2, 10, 100, None, None, "")
    pace = Pace()
    assert pace.seconds_left([seen], 0.0) == {}
    assert pace.seconds_left([replace(seen, step=40)], 60.0) == {("train", 0): 120.0}
    # Another attempt goes on from a checkpoint: its pace is seen anew.
    assert pace.seconds_left([replace(seen, step=20, attempts=3)], 90.0) == {}
    assert pace.seconds_left([replace(seen, step=None)], 90.0) == {}
