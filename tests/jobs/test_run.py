"""``run`` and what comes after it, on real members of the local backend."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.commandline import (
    COMMAND,
    SMOKE,
    copy_until,
    flip_bit,
    processes_of,
    run_of,
    tree,
    yaoki,
)
from support.comparison import differences

from cluster.status import State, run_status

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def copied(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return copy_until(smoke_run, tmp_path, "collect")


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_second_run_has_nothing_to_do_and_says_so(smoke_run: Path) -> None:
    before = tree(smoke_run)
    done = yaoki("run", *SMOKE, "--runs", smoke_run.parent)
    assert done.code == 0
    assert done.out.startswith(f"nothing to do: every member of {smoke_run.name} has finished\n")
    assert str(smoke_run / "report" / "index.html") in done.out
    assert tree(smoke_run) == before


def test_json_of_run_holds_the_scores(smoke_run: Path) -> None:
    record = yaoki("run", *SMOKE, "--runs", smoke_run.parent, "--json").record
    assert record["run"] == str(smoke_run)
    assert record["scores"] == json.loads((smoke_run / "report" / "evaluation.json").read_text())


def test_status_of_a_finished_run(smoke_run: Path) -> None:
    done = yaoki("status", smoke_run)
    assert done.code == 0
    rows = [line.split("\t")[:4] for line in done.out.splitlines()]
    assert ["train/0001", "finished", "1", "20/20"] in rows
    assert {row[1] for row in rows} == {"finished"}


def test_nothing_is_left_to_cancel_or_retry(smoke_run: Path) -> None:
    assert "nothing to cancel" in yaoki("cancel", smoke_run).out
    assert "nothing to do" in yaoki("retry", smoke_run).out


def test_logs_are_those_of_the_attempt_asked_for(copied: Path) -> None:
    log = copied / "members" / "train" / "0001" / "logs" / "0001.log"
    log.write_text("one line\n")
    shown = "==> train/0001, attempt 1 <==\none line\n"
    assert yaoki("logs", copied, "--member", "train/1").out == shown
    assert yaoki("logs", copied, "--member", "train/1", "--attempt", "1").out == shown
    assert yaoki("logs", copied, "--member", "train/1", "--follow").out == shown
    missing = yaoki("logs", copied, "--member", "train/1", "--attempt", "2")
    assert missing.code == 2
    assert "attempt 2" in missing.err


def test_verify_finds_a_flipped_bit(copied: Path) -> None:
    assert yaoki("verify", copied).code == 0
    shard = copied / "ensemble.zarr" / "velocity" / "c.1.0.0.0.0.0"
    flip_bit(shard)
    done = yaoki("verify", copied)
    assert done.code == 1
    assert "member 1" in done.out
    assert shard.name in done.out
    assert "member 0" not in done.out
    record = yaoki("verify", copied, "--json").record
    assert not record["ok"]


def test_a_damaged_shard_is_made_again_from_the_last_checkpoint(copied: Path) -> None:
    before = tree(copied / "ensemble.zarr")
    flip_bit(copied / "ensemble.zarr" / "velocity" / "c.1.0.0.0.0.0")
    assert yaoki("verify", copied).code == 1
    assert yaoki("retry", copied, "--member", "assimilate/1").code == 0
    assert yaoki("verify", copied).code == 0
    assert tree(copied / "ensemble.zarr") == before


def test_collect_goes_on_without_a_member_only_where_asked(copied: Path) -> None:
    (copied / "commits" / "0001.json").unlink()
    refused = yaoki("collect", copied)
    assert refused.code == 1
    assert "1" in refused.err
    assert "--partial" in refused.err
    partial = yaoki("collect", copied, "--partial", "--json")
    assert (partial.code, partial.record["missing"]) == (0, [1])
    assert "left out: members 1; NaN in the arrays" in partial.err
    sealed = yaoki("verify", copied, "--json")
    assert (sealed.code, sealed.record["ok"], sealed.record["complete"]) == (0, True, False)


def test_a_damaged_plan_is_told(copied: Path) -> None:
    plan = copied / "plan.yaml"
    plan.write_text(plan.read_text().replace("members: 2", "members: many", 1))
    plan.write_text(plan.read_text().replace("spinup: 8", "spinup: eight", 1))
    done = yaoki("collect", copied)
    assert done.code == 2
    assert "spinup" in done.err


def interrupted(runs: Path, number: signal.Signals, draw: random.Random) -> list[int]:
    """Run, be interrupted at some moment in some stage, and run again; returns the exit codes."""
    command = [*COMMAND, "run", *SMOKE, "--runs", str(runs)]
    stage, delay = draw.choice(["simulate", "train", "assimilate"]), draw.uniform(0, 3)
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    ledger = f"*/members/{stage}/0000/ledger.jsonl"
    wait_for(lambda: any(runs.glob(ledger)) or first.poll() is not None)
    time.sleep(delay)
    first.send_signal(number)
    _, error = first.communicate(timeout=120)
    assert "Traceback" not in error
    # Members of a launcher that was killed follow it; they may need a moment to save.
    wait_for(lambda: not list(processes_of(run_of(runs))))
    again = yaoki("run", *SMOKE, "--runs", runs)
    return [first.returncode, again.code]


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> dict[signal.Signals, tuple[Path, int]]:
    """A run that was interrupted by each signal and then ended, all made at the same time."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the moments: {seed}")
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    places = {number: tmp_path_factory.mktemp(number.name) for number in signals}
    with ThreadPoolExecutor(len(signals)) as threads:
        futures = {
            number: threads.submit(interrupted, runs, number, random.Random(seed + number))
            for number, runs in places.items()
        }
    codes = {number: future.result() for number, future in futures.items()}
    assert all(again == 0 for _, again in codes.values())
    return {number: (run_of(places[number]), codes[number][0]) for number in signals}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_like_one_that_was_not(
    smoke_run: Path, restarted: dict[signal.Signals, tuple[Path, int]], number: signal.Signals
) -> None:
    run, code = restarted[number]
    assert code == (-9 if number is signal.SIGKILL else 130)
    assert {m.state for m in run_status(run)} == {State.FINISHED}
    assert yaoki("verify", run).code == 0
    assert differences(run, smoke_run) == []


def test_cancel_ends_a_run_and_retry_goes_on(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_until(smoke_run, tmp_path, "simulate")
    shutil.rmtree(run / "members" / "train", ignore_errors=True)
    command = [*COMMAND, "run", *SMOKE, "--runs", str(tmp_path)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ledger = run / "members" / "train" / "0001" / "ledger.jsonl"
    wait_for(lambda: ledger.exists() and '"start"' in ledger.read_text())
    assert yaoki("cancel", run, "--member", "train/1", "--json").record["cancelled"] == [
        "train/0001"
    ]
    _, error = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    assert "train/0001" in error
    states = {(m.stage, m.index): m.state for m in run_status(run)}
    assert states["train", 0] is State.FINISHED
    assert states["train", 1] is State.CANCELLED
    assert yaoki("retry", run).code == 0
    assert differences(run, smoke_run) == []
