"""The job with its optional sinks: they show what ``metrics.jsonl`` holds, and change nothing."""

import os
import signal
import subprocess
import time
from pathlib import Path

from support.commandline import COMMAND, SMOKE, copy_until, yaoki
from support.comparison import differences
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster import Member
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


def test_a_killed_member_with_sinks_ends_like_one_without(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_until(smoke_run, tmp_path, "simulate")
    launcher = subprocess.Popen([*COMMAND, "run", *SMOKE, *SINKS, "--runs", str(tmp_path)])
    checkpoints = Member(run, "train", 0).checkpoints
    while not list(checkpoints.glob("*.pt")):
        time.sleep(0.02)
    os.kill(int(Member(run, "train", 0).ledger.attempts()[-1].where["pid"]), signal.SIGKILL)
    assert launcher.wait() == 0
    assert differences(run, smoke_run) == []
