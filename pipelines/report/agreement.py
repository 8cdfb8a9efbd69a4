"""What the members of an ensemble agree on, and whether they are right to: charts of one array."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from pipelines.report.axes import UNITS, Frame, legend_html
from pipelines.report.content import Table
from pipelines.report.curves import Array
from pipelines.report.elements import paragraph, table_html
from pipelines.report.maps import maps_html
from pipelines.report.scales import Scale

#: Arrays that are drawn; the scores of all are in the table.
_DRAWN = 6
_BARS = 64
_SCORES = {
    "points": "Points",
    "spread_rms": "Spread",
    "rmse": "Error of the mean",
    "crps": "CRPS",
    "spread_error_ratio": "Spread over error",
}
#: What a line is, alone and beside another.
_KINDS = {
    "spread": ("spread, root mean square", "error that the spread foretells"),
    "error": ("", "error of the mean, root mean square"),
}
_REMARK = "Of {} members at each point; root mean squares over all points."
_SCORED = " CRPS: less is better. Spread over error: 1 is calibrated."
_RMS = "Spread and error are root mean squares over the other axes."
_NO_TRUTH = (
    "How far the members are from the truth is not known: 'truth.h5' or 'truth.zarr' in the run "
    "directory, with arrays of the same names, would tell."
)


def agreement_html(found: Mapping[str, Any]) -> str:
    """Scores of all arrays, and charts and maps of the first of them.

    Args:
        found: As :func:`pipelines.statistics.run_summary` has it.
    """
    parts = ['<h3 id="agreement">Statistics over members</h3>']
    if found["truth"] is None:
        parts.append(paragraph(_NO_TRUTH))
    parts.append(_scores(found["arrays"], found["members"]))
    drawn = list(found["arrays"].items())[:_DRAWN]
    for n, (name, array) in enumerate(drawn):
        charts = "".join(_charts(name, array, found["members"], f"members-{n}"))
        if charts:
            parts.append(f'<div class="gallery apart">{charts}</div>')
        if array["map"]:
            parts.append(maps_html(name, array["units"], array["map"]))
    return "\n".join(parts)


def _scores(arrays: Mapping[str, Any], members: int) -> str:
    known = [k for k in _SCORES if any(array.get(k) is not None for array in arrays.values())]
    rows = [
        [name, *(array.get(k) for k in known), array["units"]] for name, array in arrays.items()
    ]
    columns = ["Array", *(_SCORES[k] for k in known), "Units"]
    remark = f"{_REMARK.format(members)}{_SCORED if 'crps' in known else ''}"
    return table_html(Table("Statistics over members", columns, rows, remark))


def _charts(name: str, array: Mapping[str, Any], members: int, key: str) -> Iterator[str]:
    series = array["series"]
    if series and series["alone"]:
        yield _mean_chart(name, series, f"{key}-series")
    elif series:
        yield _spread_chart(name, series, members, f"{key}-series")
    if array["rank_histogram"]:
        yield rank_chart(name, array["rank_histogram"], f"{key}-ranks")


def _mean_chart(name: str, series: Mapping[str, Any], key: str) -> str:
    """Mean of an array of one axis, in the band of its spread."""
    at, mean, spread = (np.array(series[k], np.float64) for k in ("at", "mean", "spread"))
    low, high = mean - spread, mean + spread
    frame = _frame(at, np.concatenate([low, high]), series["dim"])
    across = frame.across(at)
    drawn = (
        f'<g class="first">{frame.band(across, low, high)}'
        f'<path class="median" d="{frame.path(across, mean)}"/></g>'
    )
    legend = legend_html([("first", "mean of the members, and the band of one spread each side")])
    words = f"A line over {series['dim']} in a band; the table has every point."
    title = f"{name}: mean and spread"
    return frame.html(key, title, legend, words, drawn, _table(title, series))


def _spread_chart(name: str, series: Mapping[str, Any], members: int, key: str) -> str:
    """Spread along time; with a truth, the error of the mean and the one that spread foretells."""
    lines = {kind: np.array(series[kind], np.float64) for kind in _KINDS if kind in series}
    if "error" in lines:
        # The mean of a few members errs by more than they are apart.
        lines["spread"] *= np.sqrt((members + 1) / members)
    at = np.array(series["at"], np.float64)
    frame = _frame(at, np.concatenate(list(lines.values())), series["dim"])
    classes = dict(zip(lines, ("first", "second"), strict=False))
    across = frame.across(at)
    drawn = "".join(
        f'<g class="{classes[kind]}"><path class="median" d="{frame.path(across, line)}"/></g>'
        for kind, line in lines.items()
        if np.isfinite(line).any()
    )
    legend = legend_html([(classes[kind], _KINDS[kind][len(lines) - 1]) for kind in lines])
    title = f"{name}: {' and '.join(lines)} over {series['dim']}"
    words = "; ".join(
        f"{kind} {line[0]:.3g} at first, {line[-1]:.3g} at last" for kind, line in lines.items()
    )
    return frame.html(key, title, legend, f"{words}.", drawn, _table(title, series))


def _frame(at: Array, values: Array, dim: str) -> Frame:
    finite = values[np.isfinite(values)]
    y = Scale.of(finite.tolist() or [0.0])
    return Frame(Scale(float(at[0]), float(at[-1]) + 1e-9), y, dim, whole=False)


def _table(title: str, series: Mapping[str, Any]) -> str:
    kinds = [k for k in ("mean", "spread", "error") if k in series]
    rows = list(zip(series["at"], *(series[k] for k in kinds), strict=True))
    return table_html(Table(title, [series["dim"], *map(str.capitalize, kinds)], rows, _RMS))


def rank_chart(name: str, counts: list[int], key: str) -> str:
    """Rank histogram, relative to the flat one of members that are no other than the truth.

    Args:
        name: Of the array.
        counts: Points whose truth has 0, 1, ... M members below it.
        key: A word that no other chart of the page has.
    """
    groups = np.array_split(np.array(counts, np.float64), min(_BARS, len(counts)))
    flat = sum(counts) / len(counts) or 1.0
    bars = np.array([group.mean() / flat for group in groups])
    frame = Frame(
        Scale(-0.5, len(counts) - 0.5), Scale(0.0, max(1.2, 1.08 * float(bars.max()))), "rank"
    )
    drawn = "".join(_bar(frame, n, len(bars), bar) for n, bar in enumerate(bars))
    level = round(UNITS * (1 - frame.y(1.0)))
    line = f'<g class="second"><path class="median" d="M0,{level}L{UNITS},{level}"/></g>'
    legend = legend_html([("first", "how often the truth has that rank"), ("second", "calibrated")])
    below, above = counts[0] / (sum(counts) or 1), counts[-1] / (sum(counts) or 1)
    words = (
        f"The truth is below all members at {below:.1%} of the points, above all at {above:.1%}; "
        f"{1 / len(counts):.1%} each would be calibrated."
    )
    starts = np.cumsum([0, *(len(group) for group in groups)])
    rows = [
        [f"{a}" if b - a == 1 else f"{a} to {b - 1}", int(group.sum()), float(bar)]
        for a, b, group, bar in zip(starts[:-1], starts[1:], groups, bars, strict=True)
    ]
    title = f"{name}: rank of the truth among the members"
    remark = "High at both ends: too little spread; in the middle: too much; at one end: a bias."
    table = table_html(Table(title, ["Members below", "Points", "Of calibrated"], rows, remark))
    return frame.html(key, title, legend, words, f'<g class="bar">{drawn}</g>{line}', table)


def _bar(frame: Frame, n: int, of: int, height: float) -> str:
    left, right = UNITS * (n + 0.07) / of, UNITS * (n + 0.93) / of
    tall = UNITS * frame.y(height)
    return (
        f'<rect x="{left:.0f}" width="{right - left:.0f}" y="{UNITS - tall:.0f}" '
        f'height="{tall:.0f}"><title>{escape(f"{height:.2f} of calibrated")}</title></rect>'
    )
