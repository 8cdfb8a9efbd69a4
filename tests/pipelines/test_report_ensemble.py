"""The ensemble on the page of a run: its statistics, and what is told where there are none."""

from pathlib import Path

import numpy as np
import pytest
from support.array_run import START, make_array
from support.html import Page

from cluster.accounts.bookkeeping import run_usage
from cluster.status import run_status
from pipelines.ensemble import ArraySpec, collect, create_ensemble, write_member
from pipelines.report import Comparison, Picture, RunState, Section, save_section, write_run_page
from pipelines.report.agreement import rank_chart
from pipelines.report.loose import shown_sections
from pipelines.report.maps import maps_html
from pipelines.statistics import save_truth

ATTRIBUTES = {"config_digest": "c0ffee"}


def with_ensemble(run: Path, members: int, arrays: int = 1, side: int = 8, times: int = 4) -> Path:
    """Members that have written fields over time; not yet collected."""
    if not run.exists():
        make_array(run, members)
    store = run / "ensemble.zarr"
    names = [f"u{n}" for n in range(arrays)]
    specs = [ArraySpec(name, (times, side, side), ("time", "y", "x"), units="m") for name in names]
    create_ensemble(store, members, specs, ATTRIBUTES)
    for member in range(members):
        rng = np.random.default_rng(member)
        values = {name: rng.standard_normal((times, side, side), np.float32) for name in names}
        write_member(store, member, values, ATTRIBUTES, fence=1)
    save_truth(run, {n: np.random.default_rng(members).random((side, side)) for n in names})
    return store


def state(run: Path) -> RunState:
    return RunState(run_usage(run), run_status(run), START + 1e5)


def page(run: Path) -> Page:
    return Page(write_run_page(state(run)).read_text("utf-8"))


def test_a_sealed_ensemble_has_its_statistics_on_the_page(tmp_path: Path) -> None:
    collect(with_ensemble(tmp_path, 5))
    found = page(tmp_path)
    for said in (
        "Array Points Spread Error of the mean CRPS Spread over error Units u0 256",
        "u0: spread and error over time",
        "u0: rank of the truth among the members",
        "u0 at time 3: x to the right, y upward.",
    ):
        assert said in found.text
    alts = [image["alt"] or "" for image in found.all("img")]
    for title in ("Mean of the members", "Spread of the members", "Error of the mean"):
        (alt,) = [alt for alt in alts if alt.startswith(title)]
        assert "least" in alt
        assert "greatest" in alt


def test_what_has_no_statistics_says_why(tmp_path: Path) -> None:
    make_array(tmp_path / "plain", members=2)
    (tmp_path / "plain" / "report").mkdir()
    (tmp_path / "plain" / "report" / "evaluation.json").write_text('{"final_loss": 0.25}')
    told = page(tmp_path / "plain").text
    assert "Ensemble" not in told
    assert "Evaluation By the workload Value final loss 0.25" in told
    run = tmp_path / "run"
    store = with_ensemble(run, 3)
    assert "follow when 'yaoki collect' has sealed them" in page(run).text
    collect(store)
    (run / "truth.h5").write_bytes(b"no HDF5")
    told = page(run).text
    assert "There are no statistics:" in told
    assert "truth.h5: expected HDF5 or a Zarr group" in told
    (run / "truth.h5").unlink()
    told = page(run).text
    assert "How far the members are from the truth is not known" in told
    assert "u0: spread over time" in told
    assert "CRPS" not in told


def test_statistics_of_two_runs_are_compared(tmp_path: Path) -> None:
    for name in ("a", "b"):
        collect(with_ensemble(tmp_path / name, 3))
    (tmp_path / "b" / "truth.h5").unlink()
    both = Comparison(state(tmp_path / "a"), state(tmp_path / "b"))
    assert both.scores["u0 spread rms"][0] == both.scores["u0 spread rms"][1]
    assert both.scores["u0 crps"][1] is None


def test_a_hundred_members_with_all_that_there_can_be_take_less_than_five_megabytes(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    # Noise on as many cells as a map has is what no compression makes smaller.
    make_array(run, members=100, attempts=10, rows=300)
    collect(with_ensemble(run, 20, arrays=7, side=96, times=1))
    noise = np.random.default_rng(0).random((640, 640, 3))
    for n in range(4):
        picture(run / "report" / f"noise_{n}.png", noise)
    target = write_run_page(state(run))
    assert 2_000_000 < target.stat().st_size < 5_000_000
    text = Page(target.read_text("utf-8")).text
    assert "noise_3.png is not shown" in text
    assert "u6" in text


def picture(file: Path, pixels: np.ndarray | None = None, **words: str) -> None:
    from matplotlib.image import imsave

    file.parent.mkdir(exist_ok=True)
    imsave(file, np.zeros((2, 2, 3)) if pixels is None else pixels, metadata=words)


def test_pictures_and_tables_that_a_job_leaves_are_shown(tmp_path: Path) -> None:
    make_array(tmp_path, members=1)
    report = tmp_path / "report"
    picture(report / "fit.png", Title="The fit", Description="Two bumps, the left one higher.")
    picture(report / "fit_ü.png", Title="Güte", Description="Spread by σ.")
    picture(report / "loss_by-depth.png")
    picture(report / "saved.png")
    save_section(
        tmp_path, "mine", Section("Mine", pictures=[Picture("P", "w", report / "saved.png")])
    )
    (report / "by_depth.table.json").write_text(
        '[{"depth": 1, "ok": true}, {"depth": 2, "of": [3]}]'
    )
    section = shown_sections(tmp_path)[-1]
    assert [(p.caption, p.alt) for p in section.pictures] == [
        ("The fit", "Two bumps, the left one higher."),
        ("Güte", "Spread by σ."),
        ("loss by depth", "loss by depth; the picture came without a description"),
    ]
    found = page(tmp_path)
    assert "by depth depth ok of 1 yes – 2 – [3]" in found.text
    assert len(found.all("img")) == 4


@pytest.mark.parametrize("content", ["{", "[1]", "[]", "3", '{"a": 1}'])
def test_a_table_that_is_none_is_named_and_the_rest_is_shown(tmp_path: Path, content: str) -> None:
    make_array(tmp_path, members=1)
    picture(tmp_path / "report" / "whole.png")
    half = (tmp_path / "report" / "whole.png").read_bytes()[:-5]
    (tmp_path / "report" / "half.png").write_bytes(half)
    (tmp_path / "report" / "odd.table.json").write_text(content)
    found = page(tmp_path)
    assert "half.png is no PNG, or not a whole one. odd.table.json" in found.text
    assert len(found.all("img")) == 1


def test_many_ranks_are_drawn_in_groups_and_few_as_they_are() -> None:
    for members, bars in ((3, 4), (200, 64)):
        counts = list(range(members + 1))
        found = Page(rank_chart("u", counts, "k"))
        assert len(found.all("rect")) == bars + 2  # and two of the legend
        assert found.words.count("0") >= 1
    assert "Points" in found.text


def test_a_map_of_one_value_and_one_of_nothing(tmp_path: Path) -> None:
    flat = {"dims": ["y", "x"], "at": {}, "mean": [[2.0, 2.0]] * 2, "spread": [[0.0, 0.0]] * 2}
    found = Page(maps_html("u", "m", flat))
    assert len([image for image in found.all("img") if image["alt"]]) == 2
    assert "2 to 3 m" in found.text
    empty = flat | {"mean": [[None] * 2] * 2, "spread": [[None] * 2] * 2}
    assert Page(maps_html("u", "m", empty)).all("img") == []
