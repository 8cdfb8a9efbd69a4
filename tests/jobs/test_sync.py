"""``yaoki sync`` against a server on this machine: every step is there once, whatever was lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.commandline import COMMAND, Done
from support.wandb_endpoint import Endpoint, endpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.cause import Cause
from cluster.records.member import Member
from cluster.stage import Stage
from pipelines.pictures import decode_png
from pipelines.search import trial_member
from pipelines.sinks import WandbRun
from pipelines.syncing import find_gap, tracked
from pipelines.tracking import MetricsLog, read_images
from pipelines.tracking.settings import TrackingConfig

STEPS = [*range(1, 25)]


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """A member of a run; there is another, which most tests leave without a log."""
    stage = Stage(tmp_path / "run", "train", members=2)
    stage.save()
    return stage.member(0)


def sync(server: Endpoint, member: Member, *options: str, **changed: str) -> Done:
    command = [*COMMAND, "sync", str(member.run), *options]
    home = member.run.parent / "home"
    home.mkdir(exist_ok=True)
    environment = server.environment(home) | changed
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def logged(member: Member, steps: list[int], name: str = "r") -> None:
    WandbRun(name).save(member.directory)
    with MetricsLog(member.directory / "metrics.jsonl", 1) as log:
        for step in steps:
            log.log(step, {"loss": 1.0 / step})


def server_has(server: Endpoint, steps: list[int]) -> None:
    """Let a history hold some steps, as an online run leaves it that was killed."""
    lines = [f'{{"_step": {step}, "loss": {1.0 / step}}}' for step in steps]
    server.histories["r"] = lines


# A member that saves every fourth step. Each line of input is an attempt, a process of its own that
# may kill itself in the middle of its work; it is forked where all is imported: that takes longest.
ATTEMPTS = """
import os, sys
from pathlib import Path
import numpy as np
import torch.utils.tensorboard, wandb
from pipelines.sinks import TensorBoardSink, WandbSink
from pipelines.tracking import MetricsLog, Tracker
home = Path(sys.argv[1])
saved = home / "saved"
def work(mode, attempt, last):
    start = int(saved.read_text()) if saved.exists() else 0
    sinks = [WandbSink(home, "r", mode=mode), TensorBoardSink(home / "tensorboard")]
    with Tracker(MetricsLog(home / "metrics.jsonl", attempt), sinks) as tracker:
        if attempt > 1:
            tracker.rewind(start)
        for step in range(start + 1, 25):
            tracker.log(step, {"loss": 1.0 / step})
            if step % 8 == 0:
                tracker.log_image("flow", np.full((4, 6), step, np.uint8), step)
            if step == last:
                os.kill(os.getpid(), 9)
            if step % 4 == 0:
                tracker.sync()
                saved.write_text(str(step))
for line in sys.stdin:
    mode, attempt, last = line.split()
    child = os.fork()
    if not child:
        work(mode, int(attempt), int(last))
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def attempts(server: Endpoint, member: Member) -> Iterator[Callable[[str], int]]:
    """What runs an attempt (its mode, number, and the step at which it dies) and tells its code."""
    command = [sys.executable, "-c", ATTEMPTS, str(member.directory)]
    environment, pipe = server.environment(member.run.parent), subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answers = process.stdin, process.stdout

        def run(line: str) -> int:
            ask.write(line + "\n")
            ask.flush()
            return int(answers.readline())

        yield run
        assert "is off" not in process.communicate()[1]


def events(member: Member) -> Any:
    return EventAccumulator(str(member.directory / "tensorboard")).Reload()


def test_after_three_kills_both_sinks_show_every_step_once(
    server: Endpoint, member: Member
) -> None:
    member.directory.mkdir(parents=True)
    with attempts(server, member) as run:
        for line in ("offline 1 6", "offline 2 11", "offline 3 17"):
            assert run(line) == -signal.SIGKILL
        assert server.requests == []
        # The last is online, and finds what one before it might have sent until it was killed.
        server_has(server, [*range(9, 16), 17, 18])
        assert run("online 4 0") == 0
    assert server.steps("r") == [*range(9, 16), *range(17, 25)]
    done = sync(server, member, "--json")
    assert done.code == 0, done.err
    (told,) = done.record["members"]
    assert (told["shown"], told["sent"], told["error"]) == (15, 9, None)
    # W&B appends to a history, and shows it by step.
    assert sorted(server.steps("r")) == STEPS
    assert [row["loss"] for row in server.rows("r")] == [1 / s for s in server.steps("r")]
    assert [event.step for event in events(member).Scalars("loss")] == STEPS
    # The images, in both, with their pixels.
    assert [event.step for event in events(member).Images("flow")] == [8, 16, 24]
    shown = {row["_step"]: row["flow"]["path"] for row in server.rows("r") if "flow" in row}
    assert sorted(shown) == [8, 16, 24]
    for image in read_images(member.directory / "metrics.jsonl"):
        assert decode_png(image.file.read_bytes()).tolist() == [[[image.step] * 3] * 6] * 4
        assert server.files[f"r/{shown[image.step]}"].startswith(b"\x89PNG")
    # Once more is harmless, also where the server shows late what it was sent.
    server.histories["r"] = server.histories["r"][:15]
    asked = len(server.requests)
    assert "all there" in sync(server, member).out
    assert not any("file_stream" in request for request in server.requests[asked:])
    assert list(member.run.glob(".sync-*")) == []


def test_only_what_a_server_lacks_is_sent(server: Endpoint, member: Member) -> None:
    logged(member, STEPS)
    server_has(server, [*range(1, 8), *range(11, 15)])
    told = sync(server, member, "--dry-run", "--json").record["members"][0]
    assert (told["shown"], told["lacking"], told["sent"]) == (11, 13, 0)
    assert len(server.steps("r")) == 11
    left = member.run / ".sync-of-a-killed-one"
    left.mkdir()
    assert sync(server, member).code == 0
    assert sorted(server.steps("r")) == STEPS
    assert not left.exists()


def test_nothing_is_lost_where_rows_are_not_taken(server: Endpoint, member: Member) -> None:
    other = Member(member.run, "train", 1)
    logged(member, STEPS)
    logged(other, STEPS, "s")
    server.refusing = {"r"}
    done = sync(server, member)
    assert done.code == os.EX_UNAVAILABLE
    assert "did not take the rows of 1 members" in done.err
    assert not (member.directory / "synced.jsonl").exists()
    server.refusing = set()
    done = sync(server, member, "--json")
    assert [told["sent"] for told in done.record["members"]] == [24, 0]
    assert server.steps("r") == server.steps("s") == STEPS


def test_where_there_is_no_server_no_login_or_no_package(server: Endpoint, member: Member) -> None:
    logged(member, STEPS)
    gone = sync(server, member, WANDB_BASE_URL="http://127.0.0.1:9", WANDB__GRAPHQL_RETRY_MAX="1")
    assert (gone.code, "refused" in gone.err) == (os.EX_UNAVAILABLE, True)
    stranger = sync(server, member, WANDB_API_KEY="")
    assert (stranger.code, "wandb login" in stranger.err) == (os.EX_UNAVAILABLE, True)
    hidden = member.run.parent / "hidden"
    hidden.mkdir()
    (hidden / "wandb.py").write_text("raise ImportError('no such package')")
    paths = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    missing = sync(server, member, PYTHONPATH=paths)
    assert (missing.code, "yaoki[tracking]" in missing.err) == (os.EX_UNAVAILABLE, True)
    assert server.histories == {}


def test_a_damaged_log_is_named(server: Endpoint, member: Member) -> None:
    logged(member, STEPS)
    log = member.directory / "metrics.jsonl"
    log.write_bytes(b"rubbish\n" + log.read_bytes())
    done = sync(server, member)
    assert (done.code, f"{log}:1: expected a row" in done.err) == (1, True)
    assert server.histories == {}


def test_a_damaged_note_of_the_run_is_named(server: Endpoint, member: Member) -> None:
    logged(member, [1])
    (member.directory / "wandb.json").write_text('{"identifier": ')
    done = sync(server, member)
    assert done.code == 1
    assert str(member.directory / "wandb.json") in done.err
    assert server.histories == {}


@pytest.mark.parametrize("name", ["a/b", "a:b#", "", "x" * 129])
def test_a_project_that_wandb_would_refuse_is_refused_at_once(
    server: Endpoint, member: Member, name: str
) -> None:
    done = sync(server, member, "--project", name)
    assert done.code == 2
    assert "expected the name of a W&B project" in done.err
    with pytest.raises(ValueError, match="expected the name of a W&B project"):
        TrackingConfig(project=name)


def test_members_that_ran_without_wandb_need_a_project(server: Endpoint, member: Member) -> None:
    with MetricsLog(member.directory / "metrics.jsonl", 1) as log:
        log.log(1, {"loss": 1.0})
    assert "--project" in sync(server, member).err
    assert sync(server, member, "--project", "late").code == 0
    assert server.steps("run-train-0000") == [1]
    # Of an attempt at work the newest step may not be whole.
    member.ledger.start({})
    with MetricsLog(member.directory / "metrics.jsonl", 1) as log:
        for step in (2, 3):
            log.log(step, {"loss": 1.0})
    ((_, run),) = tracked([member], "late")
    assert find_gap(member, run, ask=False).lacking == {2}


def test_trials_of_a_search_are_sent_beside_members(server: Endpoint, member: Member) -> None:
    logged(member, [1])
    for number in (3, 12):
        logged(trial_member(member.run, number), [1, 2], f"t{number}")
    assert sync(server, member, "--member", "trial/3").code == 0
    assert server.histories.keys() == {"t3"}
    # A worker's attempt may be at any trial: the newest step of each may not be whole.
    attempt = member.ledger.start({})
    assert sync(server, member).code == 0
    assert (server.steps("t3"), server.steps("t12")) == ([1, 2], [1])
    member.ledger.end(attempt, Cause.FINISHED)
    done = sync(server, member, "--json")
    assert [told["member"] for told in done.record["members"]] == [
        "train/0000",
        "trial/0003",
        "trial/0012",
    ]
    assert (server.steps("t3"), server.steps("t12")) == ([1, 2], [1, 2])
    done = sync(server, member, "--member", "trial/4")
    assert (done.code, "expected one of 2 trials, found 'trial/4'" in done.err) == (2, True)
