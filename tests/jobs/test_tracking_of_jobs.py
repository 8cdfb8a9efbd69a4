"""The job with its optional sinks: they show what ``metrics.jsonl`` holds, and change nothing."""

import os
import signal
import subprocess
import time
from pathlib import Path

from support.commandline import COMMAND, SMOKE, copy_until, yaoki
from support.comparison import differences
from support.wandb_endpoint import endpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster import Member
from pipelines.sinks import WandbRun
from pipelines.tracking import read_images, read_metrics

SINKS = ("tracking.wandb=true", "tracking.tensorboard=true")


def test_sinks_show_every_epoch_once_and_change_nothing(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_until(smoke_run, tmp_path, "simulate")
    assert yaoki("run", *SMOKE, *SINKS, "--runs", tmp_path).code == 0
    assert differences(run, smoke_run) == []
    for index in range(2):
        directory = Member(run, "train", index).directory
        rows = read_metrics(directory / "metrics.jsonl")
        events = EventAccumulator(str(directory / "tensorboard"))
        events.Reload()
        shown = {event.step: event.value for event in events.Scalars("loss")}
        assert list(shown) == [row["step"] for row in rows]
        assert len(list(directory.glob("wandb/offline-run-*"))) == 1
        validated = [row["step"] for row in rows if "validation" in row]
        assert [image.step for image in events.Images("fit")] == validated
        assert [image.step for image in read_images(directory / "metrics.jsonl")] == validated
        sampled = EventAccumulator(str(Member(run, "assimilate", index).directory / "tensorboard"))
        assert len(sampled.Reload().Images("samples")) == 1


def kill_after_a_save(member: Member, attempt: int) -> None:
    """Kill an attempt once it has saved something."""
    saved = set(member.checkpoints.glob("*.pt"))
    while (
        len(member.ledger.attempts()) < attempt or not set(member.checkpoints.glob("*.pt")) - saved
    ):
        time.sleep(0.02)
    os.kill(int(member.ledger.attempts()[-1].where["pid"]), signal.SIGKILL)


def test_a_member_killed_thrice_ends_like_one_that_never_was_and_shows_every_step_once(
    smoke_run: Path, tmp_path: Path
) -> None:
    run = copy_until(smoke_run, tmp_path, "simulate")
    member = Member(run, "train", 0)
    launcher = subprocess.Popen([*COMMAND, "run", *SMOKE, *SINKS, "--runs", str(tmp_path)])
    for attempt in (1, 2, 3):
        kill_after_a_save(member, attempt)
    assert launcher.wait() == 0
    assert len(member.ledger.attempts()) == 4
    assert differences(run, smoke_run) == []
    steps = [row["step"] for row in read_metrics(member.directory / "metrics.jsonl")]
    events = EventAccumulator(str(member.directory / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == steps
    with endpoint() as server:
        environment = server.environment(tmp_path)
        command = [*COMMAND, "sync", str(run), "--member", member.name]
        subprocess.run(command, env=environment, check=True)
        known = WandbRun.load(member.directory)
        assert known is not None
        assert [row["_step"] for row in server.rows(known.identifier) if "loss" in row] == steps
        assert known.config["seed"] == 0
