"""The scripts of docs/examples, run as a user does; where it matters, under a kill."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.commandline import processes_of
from support.waiting import wait

from cluster import Cause, Ledger
from cluster.slurmbox import SlurmBox

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"


def _start(
    folder: Path, name: str, *arguments: object, environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    if environment is None:
        environment = {key: value for key, value in os.environ.items() if key != "SLURM_CONF"}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def _run(folder: Path, name: str, *arguments: object) -> str:
    with _start(folder, name, *arguments) as script:
        out, _ = script.communicate()
    assert script.returncode == 0
    return out


def _causes(run: Path, stage: str, index: int) -> list[Cause | None]:
    ledger = Ledger(run / "members" / stage / f"{index:04d}" / "ledger.jsonl")
    return [attempt.cause for attempt in ledger.attempts()]


def test_one_line(tmp_path: Path) -> None:
    assert re.fullmatch(r"pi is about 3\.14\d\n", _run(tmp_path, "one_line.py"))


@pytest.mark.slurm
def test_one_line_finds_slurm_by_itself(slurmbox: SlurmBox, tmp_path: Path) -> None:
    with _start(tmp_path, "one_line.py", environment=dict(os.environ)) as script:
        out, _ = script.communicate()
    assert re.fullmatch(r"pi is about 3\.14\d\n", out)
    ledger = Ledger(tmp_path / "runs/one_line/members/job/0000/ledger.jsonl")
    assert ledger.attempts()[0].where["slurm"]["job_id"]


def test_own_trainer_ends_bit_identical_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    told = ("--run", "run", "--seeds", 1, "--epochs", 20)
    run = tmp_path / "killed" / "run"
    twin = _start(tmp_path / "twin", "own_trainer.py", *told)
    with twin, _start(tmp_path / "killed", "own_trainer.py", *told) as script:
        wait(lambda: any((run / "members/job/0000/checkpoint").glob("*.pt")), "a save")
        delay = random.uniform(0.0, 1.0)
        threading.Event().wait(delay)
        for process in processes_of(run):
            process.send_signal(signal.SIGKILL)
        out, _ = script.communicate()
        expected, _ = twin.communicate()
    assert re.fullmatch(r"job/0000 [0-9a-f]{16}\n", expected)
    assert out == expected, f"killed after {delay} s"
    assert _causes(run, "job", 0) in ([Cause.KILLED, Cause.FINISHED], [Cause.FINISHED])


def test_a_sweep_keeps_what_is_there_and_retries_the_rest(tmp_path: Path) -> None:
    out = _run(tmp_path, "sweep.py", "--run", "run", "--rates", 0.1, 1e9)
    assert re.search(r"^ok       0: \S+$", out, flags=re.MULTILINE)
    assert "failed   1: FloatingPointError('diverged with a rate of 1000000000.0')\n" in out
    assert "\nbest is 0 with " in out
    again = _run(tmp_path, "sweep.py", "--run", "run", "--retry")
    assert again.startswith("started again: sweep/0001\n")
    assert again.removeprefix("started again: sweep/0001\n") == out
    assert _causes(tmp_path / "run", "sweep", 0) == [Cause.FINISHED]
    assert _causes(tmp_path / "run", "sweep", 1) == [Cause.ERROR, Cause.ERROR]
