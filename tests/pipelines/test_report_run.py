"""The page of whole runs: finished, broken, not yet begun, made by a plan or by an executor."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.array_run import START, make_array
from support.html import Page

from cluster.accounts.bookkeeping import run_usage
from cluster.cause import Cause
from cluster.stage import RunError, Stage
from cluster.status import run_status
from pipelines.report import Comparison, Fact, RunState, Section, write_comparison, write_run_page
from pipelines.report.state import flat
from pipelines.report.stored import save_section
from pipelines.tracking import MetricsError

PLAN = (
    "job: flow\ndigest: abc\ngit: {revision: 5348, dirty: true}\nconfig: {training: {epochs: 3}}\n"
)


def state(run: Path, advice: Sequence[str] = (), problem: str = "") -> RunState:
    members = [] if problem else run_status(run)
    return RunState(run_usage(run), members, START + 1e5, advice, problem)


def page(run: Path, **known: str) -> Page:
    return Page(write_run_page(state(run, **known)).read_text("utf-8"))


def test_a_hundred_members_take_less_than_five_megabytes(tmp_path: Path) -> None:
    make_array(tmp_path, members=100, attempts=10, rows=300)
    target = write_run_page(state(tmp_path))
    assert target == tmp_path / "report" / "index.html"
    assert target.stat().st_size < 5_000_000
    text = Page(target.read_text("utf-8")).text
    assert "100 of 100" in text
    assert "ended early: 900 preemption" in text
    assert "train/0099, attempt 10: finished" in text


def test_links_lead_to_what_is_there(tmp_path: Path) -> None:
    run = tmp_path / "läuft & mehr"
    stage = make_array(run, members=2)
    stage.member(1).logs.mkdir()
    (stage.member(1).logs / "0002.log").write_text("done\n")
    found = page(run)
    targets = [a["href"] or "" for a in found.all("a") if not (a["href"] or "").startswith("#")]
    assert "../members/train/0001/logs/0002.log" in targets
    assert "../members" in targets
    assert all((run / "report" / target).exists() for target in targets)


def test_a_page_elsewhere_leads_back(tmp_path: Path) -> None:
    make_array(tmp_path / "a run", members=1)
    target = write_run_page(state(tmp_path / "a run"), tmp_path / "pages" / "one.html")
    assert 'href="../a%20run/members/train/0000"' in target.read_text("utf-8")
    assert not (tmp_path / "a run" / "report").exists()


def test_what_the_workload_left_survives_later_pages(tmp_path: Path) -> None:
    make_array(tmp_path, members=2)
    save_section(tmp_path, "flow", Section("Flow, assimilated", "", [Fact("CRPS", 0.25)]))
    for _ in range(2):
        found = page(tmp_path)
        assert "Flow, assimilated" in found.text
        assert "CRPS 0.25" in found.text


def test_the_plan_says_what_ran(tmp_path: Path) -> None:
    make_array(tmp_path, members=1)
    assert "Members of an executor" in page(tmp_path).text
    (tmp_path / "plan.yaml").write_text(PLAN)
    text = page(tmp_path).text
    for said in ("Job flow", "5348, with changes beside it", "training.epochs 3", "n0: 2"):
        assert said in text


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    Stage(tmp_path, "train", members=3).save()
    text = page(tmp_path).text
    assert "0 of 3 3 planned" in text
    assert "No member has started yet." in text


def test_a_failed_member_is_told_with_its_error(tmp_path: Path) -> None:
    stage = make_array(tmp_path, members=2)
    number = stage.member(1).ledger.start({"host": "n1", "pid": 1, "slurm": {}})
    stage.member(1).ledger.end(
        number, Cause.ERROR, error="ValueError: the loss is <nan>\nat step 3"
    )
    found = page(tmp_path)
    assert "✗ failed" in found.text
    assert "ValueError: the loss is <nan>" in found.text
    assert "1 of 2" in found.text


def test_advice_and_a_silent_slurm_are_told(tmp_path: Path) -> None:
    make_array(tmp_path, members=2)
    found = page(tmp_path, problem="squeue does not answer")
    assert "Where the members stand is not known: squeue does not answer" in found.text
    told = RunState(run_usage(tmp_path), [], START, ["Set resources.train.memory=512M"])
    assert "Next time Set resources" in Page(write_run_page(told).read_text("utf-8")).text


def test_a_log_that_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    stage = make_array(tmp_path, members=1)
    metrics = stage.member(0).directory / "metrics.jsonl"
    metrics.write_bytes(b"no row\n" + metrics.read_bytes())
    found = page(tmp_path)
    assert "metrics.jsonl:1: expected a row of metrics, found b'no row'" in found.text
    assert "1 of 1" in found.text
    with pytest.raises(MetricsError):
        write_comparison(tmp_path / "both.html", Comparison(state(tmp_path), state(tmp_path)))
    assert not (tmp_path / "both.html").exists()


def test_a_page_that_cannot_be_composed_leaves_the_old_one(tmp_path: Path) -> None:
    make_array(tmp_path, members=1)
    before = write_run_page(state(tmp_path)).read_bytes()
    (tmp_path / "plan.yaml").write_text("- no plan")
    with pytest.raises(RunError, match="expected a plan"):
        write_run_page(state(tmp_path))
    assert (tmp_path / "report" / "index.html").read_bytes() == before


def test_two_runs_are_compared(tmp_path: Path) -> None:
    for name, attempts, plan in (("old", 2, PLAN), ("new", 1, PLAN.replace("3", "4"))):
        make_array(tmp_path / name, members=5, attempts=attempts)
        (tmp_path / name / "plan.yaml").write_text(plan)
        (tmp_path / name / "report").mkdir()
        (tmp_path / name / "report" / "evaluation.json").write_text(f'{{"crps": {attempts}}}')
    both = Comparison(state(tmp_path / "old"), state(tmp_path / "new"))
    assert both.configuration == {"git.revision": (5348, 5448), "training.epochs": (3, 4)}
    assert both.scores == {"crps": (2, 1)}
    assert both.accounts["attempts"] == (10, 5)
    assert both.accounts["ended by preemption"] == (5, None)
    target = tmp_path / "both.html"
    write_comparison(target, both)
    found = Page(target.read_text("utf-8"))
    assert "training.epochs 3 4" in found.text
    assert len(found.all("polygon")) == 2
    (tmp_path / "new" / "plan.yaml").unlink()
    half = Comparison(state(tmp_path / "old"), state(tmp_path / "new"))
    assert half.configuration == {"job": ("flow", None)}


def test_keys_are_written_as_on_the_command_line() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}
