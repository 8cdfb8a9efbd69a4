"""Sinks show what the log holds, each step once, and none of them stops a run."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.wandb_endpoint import endpoint

from pipelines.pictures import decode_png
from pipelines.sinks import TensorBoardSink, replay, run_id
from pipelines.tracking import MetricsLog, Tracker, read_images, read_metrics


def loss(step: int) -> float:
    return 1.0 / step


def events(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory)).Reload()


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    for attempt, (first, last) in enumerate([(1, 8), (6, 12)]):
        sink = TensorBoardSink(tmp_path / "tb")
        with Tracker(MetricsLog(tmp_path / "m", attempt), [sink]) as tracker:
            if attempt:
                tracker.rewind(first - 1)
            for step in range(first, last + 1):
                tracker.log(step, {"loss": loss(step) + attempt, "note": "text"})
            tracker.log_image("flow", np.full((4, 6), 0.5), last)
    shown = [(event.step, event.value) for event in events(tmp_path / "tb").Scalars("loss")]
    rows = read_metrics(tmp_path / "m")
    assert [step for step, _ in shown] == [*range(1, 13)]
    np.testing.assert_allclose(
        [value for _, value in shown], [float(row["loss"] or 0) for row in rows], rtol=1e-6
    )
    images = events(tmp_path / "tb").Images("flow")
    assert [(image.step, image.height, image.width) for image in images] == [(12, 4, 6)]


def test_a_log_can_be_replayed_into_a_fresh_sink(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m") as log:
        for step in range(1, 10):
            log.log(step, {"loss": loss(step)})
    with Tracker(MetricsLog(tmp_path / "m", attempt=1)) as tracker:
        tracker.rewind(4)
        tracker.log(5, {"loss": -5.0})
        tracker.log_image("flow", np.full((4, 6), 0.5), 5)
    assert replay(tmp_path / "m", TensorBoardSink(tmp_path / "tb")) == 5
    assert [image.step for image in events(tmp_path / "tb").Images("flow")] == [5]
    shown = [(event.step, event.value) for event in events(tmp_path / "tb").Scalars("loss")]
    assert [step for step, _ in shown] == [1, 2, 3, 4, 5]
    assert shown[-1] == (5, -5.0)


WANDB = """
import sys
import numpy as np
from pathlib import Path
from pipelines.sinks import WandbSink, run_id
from pipelines.tracking import MetricsLog, Tracker
home, attempt = Path(sys.argv[1]), int(sys.argv[2])
sink = WandbSink(home, run_id("d" * 64, "train/0003"), config={"epochs": 2})
with Tracker(MetricsLog(home / "m", attempt), [sink]) as tracker:
    if attempt:
        tracker.rewind(2)
    for step in (1, 2, 3):
        tracker.log(step + 2 * attempt, {"loss": 1.0 / step, "bad": float("nan")})
    tracker.log_image("flow", np.zeros((4, 4, 3), dtype=np.uint8), 3)
"""


def test_wandb_keeps_one_identifier_offline_through_attempts(tmp_path: Path) -> None:
    for attempt in "01":
        command = [sys.executable, "-W", "error", "-c", WANDB, str(tmp_path), attempt]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "is off" not in done.stderr
    directories = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(directories) == 2
    identifier = run_id("d" * 64, "train/0003")
    assert identifier == "dddddddddddddddd-train-0003"
    for directory in directories:
        record = directory / f"run-{identifier}.wandb"
        assert b"loss" in record.read_bytes()
        assert len(list(directory.glob("files/media/images/flow_*.png"))) == 1
    assert [row["step"] for row in read_metrics(tmp_path / "m")] == [1, 2, 3, 4, 5]


WITHOUT = """
import logging, sys
from pipelines.sinks import WandbSink
from pipelines.tracking import MetricsLog, Tracker
logging.basicConfig()
sys.modules["wandb"] = None  # what an environment without the package looks like to an import
with Tracker(MetricsLog(sys.argv[1]), [WandbSink(sys.argv[1] + ".d", "x")]) as tracker:
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 1.0})
"""


def test_a_missing_wandb_warns_once_and_stops_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("WandbSink is off from here on") == 1
    assert len(read_metrics(tmp_path / "m")) == 3


ORPHANED = """
import logging, sys
import psutil
from pipelines.sinks import WandbSink
from pipelines.tracking import MetricsLog, Tracker
logging.basicConfig()
with Tracker(MetricsLog(sys.argv[1]), [WandbSink(sys.argv[1] + ".d", "x")]) as tracker:
    tracker.log(1, {"loss": 1.0})
    helpers = psutil.Process().children(recursive=True)
    for helper in helpers:
        helper.kill()
    psutil.wait_procs(helpers)
    if sys.argv[2] == "goes on":
        tracker.log(2, {"loss": 1.0})
        tracker.log(3, {"loss": 1.0})
"""


@pytest.mark.parametrize(("then", "rows"), [("goes on", 3), ("ends", 1)])
def test_a_wandb_that_was_killed_itself_warns_once(tmp_path: Path, then: str, rows: int) -> None:
    command = [sys.executable, "-c", ORPHANED, str(tmp_path / "m"), then]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("WandbSink is off from here on") == 1
    assert "Traceback" not in done.stderr
    assert len(read_metrics(tmp_path / "m")) == rows


UNREACHABLE = """
import logging, sys
from pipelines import sinks
from pipelines.tracking import MetricsLog, Tracker
logging.basicConfig()
sinks._INIT_TIMEOUT = sinks._FINISH_TIMEOUT = 2.0
sink = sinks.WandbSink(sys.argv[1] + ".d", "x", mode="online")
with Tracker(MetricsLog(sys.argv[1]), [sink]) as tracker:
    for step in range(1, 7):
        tracker.log(step, {"loss": 1.0})
        if step == 3:
            print("logged", flush=True)
            sys.stdin.readline()
"""


def test_a_server_that_is_not_there_warns_once_and_stops_nothing(tmp_path: Path) -> None:
    with endpoint() as server:
        environment = server.environment(tmp_path) | {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", UNREACHABLE, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr.count("WandbSink is off from here on") == 1
    assert len(read_metrics(tmp_path / "m")) == 6


def test_a_server_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNREACHABLE, str(tmp_path / "m")]
    pipe = subprocess.PIPE
    with endpoint() as server:
        environment = server.environment(tmp_path)
        run = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
        )
        assert run.stdout is not None
        assert run.stdout.readline() == "logged\n"
    _, said = run.communicate("go on\n")
    assert run.returncode == 0
    assert said.count("WandbSink is off from here on") == 1
    assert len(read_metrics(tmp_path / "m")) == 6


def test_a_sink_that_breaks_leaves_the_others_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the sink wants its directory")
    sinks = [TensorBoardSink(blocked), TensorBoardSink(tmp_path / "tb")]
    with (
        caplog.at_level(logging.WARNING),
        Tracker(MetricsLog(tmp_path / "m"), sinks) as tracker,
    ):
        for step in (1, 2, 3):
            tracker.log(step, {"loss": 1.0})
    assert len(caplog.records) == 1
    assert len(events(tmp_path / "tb").Scalars("loss")) == 3
    assert len(read_metrics(tmp_path / "m")) == 3


def test_images_are_kept_and_count_by_the_rules_of_rows(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with Tracker(MetricsLog(tmp_path / "m", attempt)) as tracker:
            if attempt == 2:
                tracker.rewind(4)
            for step in (3, 5, 7)[attempt - 1 : attempt + 1]:
                tracker.log(step, {"loss": 1.0})
                tracker.log_image("of/a ü", np.full((2, 3), step * attempt, np.uint8), step)
    assert [row["step"] for row in read_metrics(tmp_path / "m")] == [3, 5, 7]
    images = read_images(tmp_path / "m")
    assert [(image.step, image.name) for image in images] == [(s, "of/a ü") for s in (3, 5, 7)]
    shown = [decode_png(image.file.read_bytes()).max() for image in images]
    assert shown == [3, 10, 14]
    assert len(list((tmp_path / "images").iterdir())) == 3


def test_an_image_of_another_shape_is_refused(tmp_path: Path) -> None:
    with (
        Tracker(MetricsLog(tmp_path / "m")) as tracker,
        pytest.raises(ValueError, match=r"image 'flow': expected \(H, W\)"),
    ):
        tracker.log_image("flow", np.zeros((3, 4, 4)), 1)


def test_tracking_imports_no_sink_until_it_is_used() -> None:
    code = (
        "import sys, pipelines.sinks\n"
        "sys.exit(bool({'torch', 'wandb', 'tensorboard'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


UNASKED = """
import importlib, pkgutil, sys
from pathlib import Path
import cluster, jobs, kernels, pipelines
for floor in (cluster, jobs, kernels, pipelines):
    for module in pkgutil.walk_packages(floor.__path__, floor.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from pipelines.sinks import TensorBoardSink
from pipelines.tracking import MetricsLog, Tracker
home = Path(sys.argv[1])
with Tracker(MetricsLog(home / "m"), [TensorBoardSink(home / "tensorboard")]) as tracker:
    tracker.log(1, {"loss": 1.0})
print(sorted(name for name in sys.modules if name.split(".")[0] == "wandb"))
"""


def test_wandb_is_never_imported_unless_asked_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNASKED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
