"""``watch``: what a user on the login node is told, and what it exits with."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.commandline import COMMAND, yaoki
from support.fake_slurm import FakeSlurm

from cluster.records.member import Member


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A Slurm that has forgotten all that it ever ran."""
    fake = FakeSlurm(tmp_path / "bin", executes=True)
    monkeypatch.setenv("PATH", str(fake.directory), prepend=":")
    return fake


@pytest.fixture
def adrift(smoke_run: Path, tmp_path: Path) -> Path:
    """A run with a member on Slurm of whose attempt nothing was heard."""
    run = tmp_path / "runs" / smoke_run.name
    shutil.copytree(smoke_run, run)
    ledger = Member(run, "train", 1).ledger
    ledger.queued()
    ledger.sent("100_1", "train-000000.sh")
    where = {"array_job_id": "100", "array_task_id": "1"}
    ledger.start({"host": "n0", "pid": 1, "slurm": where})
    return run


def _script(run: Path) -> None:
    script = run / "scripts" / "train-000000.sh"
    script.parent.mkdir(exist_ok=True)
    script.write_text("#!/bin/bash\n#SBATCH --array=0-1\nsleep 60\n")


def test_once_starts_again_what_is_adrift(fake: FakeSlurm, adrift: Path) -> None:
    _script(adrift)
    done = yaoki("watch", adrift, "--once", "--json")
    assert done.code == 0, done.err
    text = "attempt 2 ended: killed; sent again, as a new job"
    assert done.record["done"] == [{"member": "train/0001", "text": text, "job_id": "100_1"}]
    assert "lost" not in done.record["members"]
    fake.close()


def test_status_does_so_too_and_tells(fake: FakeSlurm, adrift: Path) -> None:
    _script(adrift)
    done = yaoki("status", adrift)
    assert "lost" not in done.out
    assert "sent again, as a new job" in done.err
    assert len(fake.calls("sbatch")) == 1
    fake.close()


def test_what_it_cannot_start_again_it_says(fake: FakeSlurm, adrift: Path) -> None:
    done = yaoki("watch", adrift, "--every", "1")
    assert done.code == 1
    assert "train/0001: attempt 2 ended: killed; 'yaoki retry' starts it: its script" in done.out
    assert fake.calls("sbatch") == []


def test_a_finished_run_needs_no_slurm(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = yaoki("watch", smoke_run)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("every", ["0", "soon", "-3"])
def test_a_bad_interval_is_refused(smoke_run: Path, every: str) -> None:
    done = yaoki("watch", smoke_run, f"--every={every}")
    assert done.code == 2
    assert f"expected at least 1 second, found '{every}'" in done.err


def test_an_interrupt_ends_it_with_one_line(fake: FakeSlurm, adrift: Path) -> None:
    # A job that stays in the queue, so that there is something to wait for.
    (fake.directory / "squeue").write_text("#!/bin/sh\necho '100_1|RUNNING'\n")
    command = [*COMMAND, "watch", str(adrift)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"running" in process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert said.startswith("yaoki: interrupted; members go on")
