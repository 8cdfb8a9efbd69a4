"""Curves of members as inline SVG: sharp at any size, its text selectable, without script."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain

import numpy as np

from pipelines.report.content import Table
from pipelines.report.curves import Array, Curves
from pipelines.report.elements import details, table_html, text_of
from pipelines.report.scales import Scale

_HEIGHT, _UNITS = 240, 1000
_CLASSES = ("first", "second")


@dataclass(frozen=True)
class Group:
    """Curves that are drawn in one color.

    Args:
        label: What they are, for the legend.
        curves: One metric of the members.
    """

    label: str
    curves: Curves


def curves_html(title: str, groups: Sequence[Group], key: str) -> str:
    """One metric of one run or of two, with a table that says the same.

    Args:
        title: What is drawn, and of what.
        groups: One, or two to compare.
        key: A word that no other chart of the page has.
    """
    every = [g.curves for g in groups]
    x = Scale(min(c.steps[0] for c in every), max(c.steps[-1] for c in every) + 1e-9)
    values = np.concatenate([v for c in every for v in c.members.values()])
    y = Scale.of(values[np.isfinite(values)])
    drawn = "".join(
        f'<g class="{kind}">{_group(group.curves, x, y)}</g>'
        for kind, group in zip(_CLASSES, groups, strict=False)
    )
    return (
        f'<figure class="sheet chart"><h3>{escape(title)}</h3>{_legend(groups)}'
        f'<div class="plot">{_left(y)}'
        f'<svg width="100%" height="{_HEIGHT + 40}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(title)}</title>'
        f'<desc id="{key}-d">{escape(_described(groups, y))}</desc>{_grid(x, y)}'
        f'<svg y="10" width="100%" height="{_HEIGHT}" viewBox="0 0 {_UNITS} {_UNITS}" '
        f'preserveAspectRatio="none">{drawn}</svg></svg></div>'
        f"{details('The same as a table', _table(title, groups))}</figure>"
    )


def _group(curves: Curves, x: Scale, y: Scale) -> str:
    across = [round(_UNITS * x(step)) for step in curves.steps]
    lines = "".join(
        f'<path class="line" d="{_path(across, values, y)}"><title>{escape(name)}</title></path>'
        for name, values in curves.members.items()
    )
    found = curves.band()
    if found is None:
        return f'<g class="few">{lines}</g>'
    low, middle, high = found
    there, back = _points(across, high, y), reversed(list(_points(across, low, y)))
    outline = " ".join(chain(there, back))
    return (
        f'<polygon class="band" points="{outline}"/><g>{lines}</g>'
        f'<path class="median" d="{_path(across, middle, y)}"/>'
    )


def _points(across: Sequence[int], values: Array, y: Scale) -> Iterator[str]:
    for place, value in zip(across, values, strict=True):
        if np.isfinite(value):
            yield f"{place},{round(_UNITS * (1 - y(float(value))))}"


def _path(across: Sequence[int], values: Array, y: Scale) -> str:
    points = list(_points(across, values, y))
    # A single point has no length: a stroke of one unit shows it.
    return f"M{points[0]}h1" if len(points) == 1 else "M" + "L".join(points)


def _left(y: Scale) -> str:
    """The values on the axis, in a column as wide as they need."""
    labels = "".join(
        f'<text x="52" y="{_down(y, value):.0f}" dy="4" text-anchor="end">{y.text(value)}</text>'
        for value in y.ticks()
    )
    return f'<svg width="60" height="{_HEIGHT + 40}" aria-hidden="true">{labels}</svg>'


def _grid(x: Scale, y: Scale) -> str:
    lines = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{at:.0f}" y2="{at:.0f}"/>'
        for at in (_down(y, value) for value in y.ticks())
    )
    steps = [value for value in x.ticks(4) if value == int(value)]
    labels = "".join(_label(f"{value:g}", x(value), _HEIGHT + 26) for value in steps)
    return lines + labels + _label("step", 1.0, _HEIGHT + 40)


def _label(text: str, place: float, down: int) -> str:
    anchor = "start" if place < 0.04 else "end" if place > 0.96 else "middle"
    return f'<text x="{100 * place:.2f}%" y="{down}" text-anchor="{anchor}">{text}</text>'


def _down(y: Scale, value: float) -> float:
    return 10 + _HEIGHT * (1 - y(value))


def _legend(groups: Sequence[Group]) -> str:
    items = "".join(
        f'<li><svg width="14" height="12" aria-hidden="true"><rect class="key {kind}" width="14" '
        f'height="12" rx="2"/></svg>{escape(_told(group))}</li>'
        for kind, group in zip(_CLASSES, groups, strict=False)
    )
    return f'<ul class="legend">{items}</ul>'


def _told(group: Group) -> str:
    count = len(group.curves.members)
    if group.curves.band() is None:
        return f"{group.label}: {count} members"
    return f"{group.label}: {count} members, their median, and the band of all but 10 % each side"


def _described(groups: Sequence[Group], y: Scale) -> str:
    scale = "logarithmic" if y.logarithmic else "linear"
    ends = "; ".join(
        f"{group.label}: median of the members' last values "
        f"{text_of(float(np.median([_known(v)[-1] for v in group.curves.members.values()])))}"
        for group in groups
    )
    return f"Lines over the steps on a {scale} axis. {ends}."


def _known(values: Array) -> Array:
    found: Array = values[np.isfinite(values)]
    return found


def _table(title: str, groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        for name, values in group.curves.members.items():
            known, strange = _known(values), group.curves.strange.get(name, 0)
            least = float(group.curves.steps[int(np.nanargmin(values))])
            named = name if len(groups) == 1 else f"{group.label}: {name}"
            rows.append([named, float(known[0]), float(known[-1]), float(known.min()), least])
            rows[-1].append(strange)
    columns = ["Member", "First", "Last", "Least", "At step", "Not finite"]
    caption = "Where there are more rows than the curve has points, a point is their mean."
    return table_html(Table(f"{title}, by member", columns, rows, caption))
