"""How the rows of sacct read: runs, steps, requeues, and what is not known yet."""

import time
from datetime import datetime
from pathlib import Path

import pytest
from support.commands import Commands

from cluster.scheduler import sacct
from cluster.scheduler.sacct import JobRun
from cluster.scheduler.slurm import SlurmError

#: As Slurm 22.05 prints them: an element that was requeued, one that runs, one that waits.
ROWS = """\
17_0|NODE_FAIL|@10:00:00|@10:01:00|@10:11:00|60|billing=4,cpu=4,gres/gpu=2,mem=8G,node=1|12:30.500|||1
17_0.batch|CANCELLED|@10:01:00|@10:01:00|@10:11:00||cpu=4,mem=8G,node=1|00:00.010|4096K|1|1
17_0.0|CANCELLED by 0|@10:01:00|@10:01:00|@10:11:00||cpu=4,mem=8G,node=1|12:30.490|1048576K|4|2
17_0|COMPLETED|@10:13:00|@10:13:20|@12:13:20|60|billing=4,cpu=4,gres/gpu=2,mem=8G,node=1|1-02:00:00|||1
17_0.0|COMPLETED|@10:13:20|@10:13:20|@12:13:20||cpu=4,mem=8G,node=1|1-02:00:00||1|1
17_1|RUNNING|@10:00:00|@10:01:00|Unknown|UNLIMITED|billing=1,cpu=1,mem=1G,node=1|00:00:00|||1
17_[2-9]|PENDING|@10:00:00|Unknown|Unknown|60||00:00:00|||1
""".replace("@", "2026-03-01T")


def at(clock: str) -> float:
    return time.mktime(datetime.fromisoformat(f"2026-03-01T{clock}").timetuple())


def test_every_run_of_a_job_is_read() -> None:
    runs = sacct.parse_runs(ROWS)
    assert list(runs) == ["17_0", "17_1"]
    lost, done = runs["17_0"]
    assert lost == JobRun(
        "NODE_FAIL", at("10:00:00"), at("10:01:00"), at("10:11:00"), 3600.0, 4, 2, 750.5, 2052.0
    )
    assert (done.cpu_seconds, done.peak, done.ended) == (26 * 3600.0, None, at("12:13:20"))


def test_what_is_not_known_yet_is_none() -> None:
    (running,) = sacct.parse_runs(ROWS)["17_1"]
    assert (running.ended, running.limit, running.cpu_seconds, running.gpus) == (
        None,
        None,
        None,
        0,
    )


def test_a_moment_is_matched_with_the_run_it_lies_in() -> None:
    runs = sacct.parse_runs(ROWS)
    lost, done = runs["17_0"]
    assert sacct.run_at(runs["17_0"], at("10:01:00")) == lost
    assert sacct.run_at(runs["17_0"], at("10:13:19")) == done  # clocks differ a little
    assert sacct.run_at(runs["17_0"], at("10:12:00")) is None
    assert sacct.run_at(runs["17_0"], at("09:00:00")) is None
    assert sacct.run_at(runs["17_1"], at("23:00:00")) == runs["17_1"][0]
    assert sacct.run_at([], 0.0) is None


def test_one_query_is_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(tmp_path / "bin", monkeypatch)
    (tmp_path / "rows").write_text(ROWS)
    commands.add("sacct", f'cat "{tmp_path}/rows"')
    assert sacct.job_runs(["18", "17", "17"]) == sacct.parse_runs(ROWS)
    (call,) = commands.calls()
    assert call.endswith("--jobs=17,18")
    assert sacct.job_runs([]) == {}
    commands.add("sacct", "echo 'slurmdbd: connection refused' >&2; exit 1")
    with pytest.raises(SlurmError, match="connection refused"):
        sacct.job_runs(["17"])
