"""Curves of members, of one run or of two."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from pipelines.report.axes import Frame, legend_html
from pipelines.report.content import Table
from pipelines.report.curves import Array, Curves
from pipelines.report.elements import table_html, text_of
from pipelines.report.scales import Scale

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
    frame = Frame(x, Scale.of(values[np.isfinite(values)]), "step")
    drawn = "".join(
        f'<g class="{kind}">{_group(group.curves, frame)}</g>'
        for kind, group in zip(_CLASSES, groups, strict=False)
    )
    legend = legend_html([(k, _told(g)) for k, g in zip(_CLASSES, groups, strict=False)])
    return frame.html(key, title, legend, _described(groups, frame.y), drawn, _table(title, groups))


def _group(curves: Curves, frame: Frame) -> str:
    across = frame.across(curves.steps)
    lines = "".join(
        f'<path class="line" d="{frame.path(across, values)}"><title>{escape(name)}</title></path>'
        for name, values in curves.members.items()
    )
    found = curves.band()
    if found is None:
        return f'<g class="few">{lines}</g>'
    low, middle, high = found
    median = f'<path class="median" d="{frame.path(across, middle)}"/>'
    return f"{frame.band(across, low, high)}<g>{lines}</g>{median}"


def _told(group: Group) -> str:
    count = len(group.curves.members)
    if group.curves.band() is None:
        return f"{group.label}: {count} member{'s' if count > 1 else ''}"
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
