"""The same job on a real Slurm: what ``plan`` shows is sent, and it ends as on this machine."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commandline import SMOKE, processes_of, run_of, yaoki
from support.comparison import differences

from cluster.records.member import Member
from cluster.scheduler import slurm
from cluster.slurmbox import SlurmBox

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

_OPEN = ("planned", "queued", "running", "waiting")


@pytest.fixture(scope="module")
def runs(slurmbox: SlurmBox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two submissions of the job that go on at the same time, below ``calm`` and ``hurt``."""
    directory = tmp_path_factory.mktemp("on-slurm")
    yield directory
    for run in directory.glob("*/*/plan.yaml"):
        yaoki("cancel", run.parent)


@pytest.fixture(scope="module")
def planned(runs: Path) -> Any:
    """What the plan says before anything is there."""
    done = yaoki("plan", *SMOKE, "--runs", runs / "calm", "--json")
    assert done.code == 0, done.err
    assert list(runs.iterdir()) == []
    return done.record


@pytest.fixture(scope="module")
def sent(runs: Path, planned: Any) -> dict[str, Any]:
    """What both submissions say that they sent."""
    found = {}
    for name in ("hurt", "calm"):
        done = yaoki("submit", *SMOKE, "--runs", runs / name, "--json")
        assert done.code == 0, done.err
        found[name] = done.record["jobs"]
        # Nothing of ours stays behind on the login side: members are children of slurmstepd.
        assert all(_under_slurm(p) for p in processes_of(run_of(runs / name)))
    return found


def _under_slurm(process: Any) -> bool:
    return any("slurmstepd" in parent.name() for parent in process.parents())


def test_the_plan_is_checked_by_slurm(planned: Any) -> None:
    assert all(script["accepted"] for script in planned["scripts"])


def test_what_was_sent_is_what_was_planned(runs: Path, planned: Any, sent: Any) -> None:
    for script in planned["scripts"]:
        text = script["text"]
        assert hashlib.sha256(text.encode()).hexdigest() == script["sha256"]
        for stage, (number,) in sent["calm"].items():
            text = text.replace(f":id-of-{stage}\n", f":{number}\n")
        assert Path(script["path"]).read_text() == text


def test_stages_wait_for_one_another(sent: Any) -> None:
    simulate, train, _, collect = (ids[0] for ids in sent["calm"].values())
    (waiting,) = _dependencies(collect)
    assert waiting.startswith("afterany:")
    assert all(value.startswith(f"afterok:{simulate}") for value in _dependencies(train))


def _dependencies(job: str) -> set[str]:
    text = slurm.run(["squeue", "--noheader", "--format=%E", f"--jobs={job}"])
    return set(text.split())


def test_retry_brings_back_a_member_that_scancel_took(runs: Path, sent: Any) -> None:
    run = run_of(runs / "hurt")
    member = Member(run, "train", 1)
    _wait_until(lambda: member.ledger.attempt_count() > 0)
    slurm.cancel([f"{sent['hurt']['train'][0]}_1"])
    _wait_until(lambda: _states(run)["train", 1] == "cancelled")
    assert yaoki("status", run).code == 1
    done = yaoki("retry", run, "--json")
    assert done.code == 0, done.err
    # What waited in the queue behind the member waits for it again, the end of the job included.
    again = done.record["jobs"]
    assert list(again) == ["train", "assimilate", "collect"]
    assert any(again["train"][0] in value for value in _dependencies(again["assimilate"][0]))


@pytest.mark.parametrize("name", ["calm", "hurt"])
def test_the_job_ends_as_on_this_machine(runs: Path, smoke_run: Path, sent: Any, name: str) -> None:
    run = run_of(runs / name)
    _finish(run)
    assert differences(run, smoke_run) == []


def test_a_finished_run_is_read_without_slurm(
    runs: Path, sent: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = run_of(runs / "calm")
    _finish(run)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert yaoki("status", run).code == 0


def _finish(run: Path) -> None:
    done = yaoki("status", run, "--watch", "--json")
    assert {m["state"] for m in done.record["members"]} == {"finished"}, done.out
    assert done.code == 0
    assert yaoki("verify", run).code == 0


def _states(run: Path) -> dict[tuple[str, int], str]:
    members = yaoki("status", run, "--json").record["members"]
    return {(m["stage"], m["index"]): m["state"] for m in members}


def _wait_until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
