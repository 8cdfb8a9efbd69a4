"""Scales, curves and timelines of the page."""

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.array_run import LASTS, make_array
from support.html import Page

from cluster.accounts.bookkeeping import run_usage
from cluster.accounts.timeline import Parts
from pipelines.report.charts import Group, curves_html
from pipelines.report.curves import curves, shown_metrics, stage_curves
from pipelines.report.scales import Scale, clock_text, clock_ticks
from pipelines.report.timeline import PARTS, timeline_html
from pipelines.tracking import Row

VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


@given(VALUES)
def test_a_scale_holds_its_values_and_labels_tell_ticks_apart(values: list[float]) -> None:
    scale = Scale.of(values)
    assert all(-1e-9 <= scale(value) <= 1 + 1e-9 for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(scale.low <= value <= scale.high for value in ticks)
    assert len({scale.text(value) for value in ticks}) == len(ticks)


@given(st.floats(1e-9, 1e9), st.floats(11, 1e12))
def test_ratios_are_drawn_where_values_are_decades_apart(low: float, ratio: float) -> None:
    scale = Scale.of([low, low * ratio])
    assert scale.logarithmic
    assert scale(low * math.sqrt(ratio)) == pytest.approx(0.5)
    assert 1 <= len(scale.ticks()) <= 6


@given(st.floats(0.5, 1e8))
def test_times_are_told_in_round_units(seconds: float) -> None:
    ticks = clock_ticks(seconds)
    assert ticks[0] == 0
    assert ticks[-1] <= seconds
    assert 1 <= len(ticks) <= 7
    assert len({clock_text(tick) for tick in ticks}) == len(ticks)


def test_clock_text_takes_the_largest_unit_that_fits() -> None:
    assert [clock_text(s) for s in (0, 90, 120, 7200, 172_800)] == [
        *("0 s", "90 s", "2 min", "2 h", "2 d")
    ]


SERIES = st.lists(
    st.tuples(st.integers(0, 50), st.floats(-1e3, 1e3)),
    min_size=1,
    max_size=60,
    unique_by=lambda p: p[0],
)


@given(st.dictionaries(st.sampled_from("abcdef"), SERIES, min_size=1))
def test_bins_keep_values_that_are_few_and_sums_of_many(
    series: dict[str, list[tuple[int, float]]],
) -> None:
    every = curves("loss", series, bins=1000)
    one = curves("loss", series, bins=1)
    assert every is not None
    assert one is not None
    for name, pairs in series.items():
        found = dict(zip(every.steps, every.members[name], strict=True))
        assert {step: value for step, value in found.items() if np.isfinite(value)} == dict(pairs)
        mean = sum(value for _, value in pairs) / len(pairs)
        assert one.members[name] == pytest.approx([mean])


@given(st.lists(SERIES, min_size=4, max_size=12), st.integers(1, 20))
def test_the_band_lies_between_the_members(
    series: list[list[tuple[int, float]]], bins: int
) -> None:
    found = curves("loss", {str(n): pairs for n, pairs in enumerate(series)}, bins)
    assert found is not None
    band = found.band()
    assert band is not None
    values = np.stack(list(found.members.values()))
    low, middle, high = band
    slack = 1e-9 * (1 + np.nanmax(np.abs(values)))
    for below, above in ((np.nanmin(values, 0), low), (low, middle), (middle, high)):
        assert np.all(below <= above + slack)
    assert np.all(high <= np.nanmax(values, 0) + slack)


def test_values_that_are_not_finite_are_counted_and_not_drawn() -> None:
    found = curves("loss", {"a": [(1, math.nan), (2, 1.0)], "b": [(1, 2.0)], "c": [(1, math.inf)]})
    assert found is not None
    assert dict(found.strange) == {"a": 1, "c": 1}
    assert list(found.members) == ["a", "b"]
    assert "nan" not in curves_html("loss", [Group("train", found)], "k")
    assert curves("loss", {"a": [(1, math.nan)]}) is None


def test_losses_are_drawn_or_else_the_first_number() -> None:
    row: Row = {"step": 1, "attempt": 1, "time": 0.0, "phase": "warm", "ok": True, "speed": 2.0}
    assert shown_metrics([row]) == ["speed"]
    assert shown_metrics([row, {"train_loss": 1.0, "validation": 2}]) == [
        "train_loss",
        "validation",
    ]
    assert shown_metrics([{"step": 1, "attempt": 1}]) == []


def test_two_runs_are_drawn_in_one_picture_and_told_in_one_table(tmp_path: Path) -> None:
    groups = [
        Group(name, found)
        for name, members in (("old", 6), ("new", 2))
        for found in stage_curves(make_array(tmp_path / name, members))
    ]
    found = Page(curves_html("train: loss", groups, "key"))
    assert len([a for a in found.all("path") if a["class"] == "line"]) == 6 + 2
    assert len(found.all("polygon")) == 1  # two members make no band
    assert "old: train/0005" in found.text
    assert "new: train/0001" in found.text
    assert len(found.all("tbody")) == 1


def test_the_timeline_draws_each_attempt_and_tells_it_in_a_table(tmp_path: Path) -> None:
    make_array(tmp_path, members=3, attempts=2)
    members = run_usage(tmp_path).stages[0].members
    found = Page(timeline_html(members))
    assert [a for a in found.all("g") if a.get("class") == "span"] == [{"class": "span"}] * 6
    marks = [a for a in found.all("line") if a.get("class") == "end"]
    assert len(marks) == 3 + 1  # and one in the legend
    assert "train/0002, attempt 1: preemption after 10:00" in found.text
    # Attempts as wide as they lasted: 2 x 600 s and 120 s between, members 30 s apart.
    whole = 2 * LASTS + 120 + 2 * 30
    drawn = [a for a in found.all("rect") if (a.get("width") or "").endswith("%")]
    widths = sum(float((a["width"] or "0")[:-1]) for a in drawn)
    assert widths == pytest.approx(100 * 6 * LASTS / whole, rel=1e-3)
    assert "No member has started" in timeline_html([])


def test_every_part_of_the_time_has_a_color() -> None:
    assert set(PARTS) == {field.name for field in fields(Parts)}
