"""Metrics: nothing that was logged is lost, and falling leaves no trace in what is read."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cgroup import run_limited

from cluster.slurmbox.cgroups import MemoryControl, detect
from pipelines.tracking import VOLATILE, MetricsError, MetricsLog, Tracker, read_metrics

FILES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def loss(step: int) -> float:
    return 1.0 / step


def run_once(path: Path, steps: int) -> None:
    with MetricsLog(path) as log:
        for step in range(1, steps + 1):
            log.log(step, {"loss": loss(step)})


# --- The log --------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_logged(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    values = {"a": 1, "b": 0.1, "c": "text", "d": None, "e": True}
    special = {"nan": math.nan, "inf": math.inf, "neg": -math.inf}
    with MetricsLog(path, attempt=3) as log:
        log.log(7, values)
        log.log(8, special)
    first, second = read_metrics(path)
    assert {name: first[name] for name in values} == values
    assert (first["step"], first["attempt"]) == (7, 3)
    assert isinstance(first["time"], float)
    assert repr({name: second[name] for name in special}) == repr(special)


def test_every_line_is_valid_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    with MetricsLog(tmp_path / "m") as log:
        log.log(1, {"nan": math.nan, "inf": -math.inf})
    row = json.loads((tmp_path / "m").read_text(), parse_constant=refuse)
    assert (row["nan"], row["inf"]) == ("NaN", "-Infinity")


@given(st.floats(allow_nan=False), st.floats(width=32, allow_nan=False))
@FILES
def test_floats_survive_to_the_last_bit(tmp_path: Path, wide: float, narrow: float) -> None:
    path = tmp_path / "m"
    path.unlink(missing_ok=True)
    with MetricsLog(path) as log:
        log.log(1, {"wide": np.float64(wide), "narrow": torch.tensor(narrow, dtype=torch.float32)})
    assert read_metrics(path, without=VOLATILE) == [{"step": 1, "wide": wide, "narrow": narrow}]


@pytest.mark.parametrize("value", [[1, 2], np.zeros(2), torch.zeros(2), object(), 1j])
def test_only_scalars_are_metrics(tmp_path: Path, value: Any) -> None:
    with MetricsLog(tmp_path / "m") as log, pytest.raises(MetricsError, match="'x' must be a scal"):
        log.log(1, {"x": value})
    assert read_metrics(tmp_path / "m") == []


@pytest.mark.parametrize("name", ["step", "attempt", "time", "rewind", "image", "file"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    with MetricsLog(tmp_path / "m") as log, pytest.raises(MetricsError, match="reserved"):
        log.log(1, {name: 1})


def test_each_line_has_its_attempt_and_its_step(tmp_path: Path) -> None:
    with Tracker(MetricsLog(tmp_path / "m", attempt=2)) as tracker:
        tracker.rewind(3)
        tracker.log(4, {"loss": 1.0})
        tracker.log_image("flow", np.zeros((2, 2)), 5)
    lines = [json.loads(line) for line in (tmp_path / "m").read_text().splitlines()]
    assert [(line["attempt"], line["step"]) for line in lines] == [(2, 3), (2, 4), (2, 5)]


def test_a_row_is_in_the_file_when_log_returns(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m")
    log.log(1, {"loss": 2.0})
    assert read_metrics(tmp_path / "m", without=VOLATILE) == [{"step": 1, "loss": 2.0}]
    log.close()
    log.close()


# --- Falling and rising ---------------------------------------------------------------------------


@given(
    cut=st.integers(min_value=0, max_value=10**6),
    steps=st.integers(1, 8),
    tail=st.sampled_from([b"", b"\0" * 40, b'{"step": 3, "lo']),
)
@FILES
def test_whatever_is_torn_off_whole_rows_stay(
    tmp_path: Path, cut: int, steps: int, tail: bytes
) -> None:
    path = tmp_path / "m"
    path.unlink(missing_ok=True)
    run_once(path, steps)
    content = path.read_bytes()
    kept = content[: cut % (len(content) + 1)]
    path.write_bytes(kept + (tail if kept.endswith(b"\n") else b""))
    whole = kept.count(b"\n") + (not kept.endswith(b"\n") and kept.endswith(b"}"))
    rows = [{"step": step, "loss": loss(step)} for step in range(1, whole + 1)]
    assert read_metrics(path, without=VOLATILE) == rows
    with MetricsLog(path, attempt=1) as log:
        log.log(99, {"loss": 0.0})
    assert read_metrics(path, without=VOLATILE) == [*rows, {"step": 99, "loss": 0.0}]
    assert path.read_bytes().count(b"\n") == len(rows) + 1


@given(seed=st.integers(0, 2**32), every=st.integers(1, 5), falls=st.integers(0, 6))
@FILES
def test_an_interrupted_run_reads_like_an_uninterrupted_one(
    tmp_path: Path, seed: int, every: int, falls: int
) -> None:
    steps, chance = 20, random.Random(seed)
    straight, fallen = tmp_path / "straight", tmp_path / "fallen"
    fallen.unlink(missing_ok=True)
    straight.unlink(missing_ok=True)
    run_once(straight, steps)
    checkpoint, durable = 0, 0
    for attempt in range(falls + 1):
        log = MetricsLog(fallen, attempt)
        if attempt:
            log.rewind(checkpoint)
        last = attempt == falls
        stop = steps if last else chance.randint(checkpoint, steps)
        for step in range(checkpoint + 1, stop + 1):
            log.log(step, {"loss": loss(step)})
            if step % every == 0:
                log.sync()
                checkpoint, durable = step, fallen.stat().st_size
        log.close()
        if not last:  # a power cut takes anything after the last sync
            os.truncate(fallen, chance.randint(durable, max(durable, fallen.stat().st_size)))
    assert read_metrics(fallen, without=VOLATILE) == read_metrics(straight, without=VOLATILE)


def test_a_rewind_hides_what_the_new_attempt_has_not_reached(tmp_path: Path) -> None:
    run_once(tmp_path / "m", 15)
    with MetricsLog(tmp_path / "m", attempt=1) as log:
        log.rewind(10)
        log.log(11, {"loss": -1.0})
    rows = read_metrics(tmp_path / "m")
    assert [row["step"] for row in rows] == [*range(1, 12)]
    assert rows[-1]["loss"] == -1.0


def test_rows_of_an_attempt_that_was_overtaken_give_way(tmp_path: Path) -> None:
    run_once(tmp_path / "twin", 15)
    run_once(tmp_path / "m", 12)
    # Cut off with its node, it logs on until it looks at the ledger.
    with MetricsLog(tmp_path / "m") as late, MetricsLog(tmp_path / "m", attempt=1) as newer:
        newer.rewind(10)
        for step in range(11, 16):
            late.log(step, {"loss": -1.0})
            newer.log(step, {"loss": loss(step)})
    assert read_metrics(tmp_path / "m", without=VOLATILE) == read_metrics(
        tmp_path / "twin", without=VOLATILE
    )


def test_without_a_rewind_the_latest_attempt_of_a_step_counts(tmp_path: Path) -> None:
    run_once(tmp_path / "m", 3)
    with MetricsLog(tmp_path / "m", attempt=1) as log:
        log.log(2, {"loss": -1.0})
        log.log(2, {"validation": -2.0})
    found = [(row["step"], row["attempt"]) for row in read_metrics(tmp_path / "m")]
    assert found == [(1, 0), (3, 0), (2, 1), (2, 1)]


WRITER = """
import sys
from pipelines.tracking import MetricsLog
log = MetricsLog(sys.argv[1])
for step in range(1, 10**9):
    log.log(step, {"loss": 1.0 / step, "text": "x" * 3000})
    print(step, flush=True)
"""


def test_a_kill_loses_no_row_that_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "m"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(500):
            seen = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        seen = max([seen, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    MetricsLog(path, attempt=1).close()
    steps = [row["step"] for row in read_metrics(path)]
    assert steps[:seen] == [*range(1, seen + 1)]
    assert len(steps) - seen in (0, 1)  # one row may be logged and not yet told


GREEDY = """
import os, random, sys, threading
from pipelines.tracking import MetricsLog
log = MetricsLog(sys.argv[1])
chance, hoard = random.Random(int(sys.argv[2])), []
def grow():
    while True:
        hoard.append(b"x" * chance.randrange(1 << 20))
for step in range(1, 10**9):
    log.log(step, {"loss": 1.0 / step, "text": "x" * 3000})
    os.write(1, b"%d\\n" % step)
    if step == 100:
        threading.Thread(target=grow, daemon=True).start()
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_kill_for_memory_loses_at_most_one_row(tmp_path: Path, seed: int) -> None:
    assert detect() is not MemoryControl.POLLING, "expected a memory cgroup that can be written to"
    path = tmp_path / "m"
    done = run_limited([sys.executable, "-c", GREEDY, str(path), str(seed)], mebibytes=192)
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = int(done.stdout.splitlines()[-1])
    assert told >= 100
    MetricsLog(path, attempt=1).close()
    steps = [row["step"] for row in read_metrics(path)]
    assert steps == [*range(1, len(steps) + 1)]
    # The row in hand may be logged and not yet told, or lost.
    assert len(steps) - told in (0, 1)


FULL = """
import resource, sys
from pipelines.tracking import MetricsLog
log = MetricsLog(sys.argv[1])
log.log(1, {"loss": 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
try:
    log.log(2, {"text": "x" * 3000})
except OSError as error:
    print(error)
log.log(3, {"loss": 3.0})
"""


def test_a_write_that_does_not_fit_leaves_no_half_row(tmp_path: Path) -> None:
    path = tmp_path / "m"
    command = [sys.executable, "-c", FULL, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot append metrics" in said
    assert str(path) in said
    assert [row["step"] for row in read_metrics(path)] == [1, 3]


def test_files_that_are_no_log_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text("dear diary\nnothing today\n")
    with pytest.raises(MetricsError, match="expected a metrics log"):
        MetricsLog(path)
    assert path.read_text() == "dear diary\nnothing today\n"
    path.write_text('{"step": 1, "attempt": 0}\nrubbish\n{"step": 2, "attempt": 0}\n')
    with pytest.raises(MetricsError, match=f"{path}:2: expected a row of metrics"):
        read_metrics(path)
