"""Fields as small pictures inside the page, one pixel or more a cell."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pipelines.report.curves import Array
from pipelines.report.elements import text_of

#: Pixels of the shorter side, at least: cells stay sharp where a browser would blur them.
_SIDE = 240
_TITLES = {
    "mean": "Mean of the members",
    "spread": "Spread of the members",
    "error": "Error of the mean",
}


def maps_html(name: str, units: str, found: Mapping[str, Any]) -> str:
    """Mean, spread and, where there is a truth, error of one array on a slice of it.

    Spread and error have one scale: where they agree in color, members know what they do not know.

    Args:
        name: Of the array.
        units: Of its values.
        found: The map as :func:`pipelines.statistics.run_summary` has it.
    """
    fields = {k: np.array(found[k], np.float64) for k in _TITLES if k in found}
    beside = [field for kind, field in fields.items() if kind != "mean"]
    most = max((float(np.nanmax(f)) for f in beside if np.isfinite(f).any()), default=0.0)
    dims, at = found["dims"], found["at"]
    place = ", ".join(f"{dim} {index}" for dim, index in at.items())
    lead = f"{name}{f' at {place}' if place else ''}: {dims[1]} to the right, {dims[0]} upward."
    drawn = "".join(
        _map(_TITLES[kind], field, None if kind == "mean" else most, units, dims)
        for kind, field in fields.items()
    )
    return f'<p class="lead">{escape(lead)}</p><div class="maps">{drawn}</div>'


def _map(title: str, field: Array, most: float | None, units: str, dims: Sequence[str]) -> str:
    if not np.isfinite(field).any():
        return ""
    low, high, colors = _scale(field, most)
    unit = "" if units == "1" else f" {units}"
    ends = f"{text_of(low)} to {text_of(high)}{unit}"
    strip = _png(np.linspace(low, high, 128)[None], low, high, colors, 1)
    alt = f"{title}: {_words(field, dims)}"
    return (
        f'<figure class="sheet map"><img src="{_png(field, low, high, colors, _SIDE)}" '
        f'alt="{escape(alt)}"><figcaption>{escape(title)}'
        f'<img class="strip" src="{strip}" alt="">{escape(ends)}</figcaption></figure>'
    )


def _scale(field: Array, most: float | None) -> tuple[float, float, str]:
    """From where to where, in which colors: zero is in the middle where signs differ."""
    if most is not None:
        return 0.0, most or 1.0, "viridis"
    low, high = float(np.nanmin(field)), float(np.nanmax(field))
    if low < 0 < high:
        return -max(-low, high), max(-low, high), "RdBu_r"
    return low, high if high > low else low + 1.0, "viridis"


def _png(field: Array, low: float, high: float, colors: str, side: int) -> str:
    import matplotlib
    from matplotlib.image import imsave

    rows, columns = (-(-side // n) for n in field.shape)
    if max(rows, columns) <= 3 * min(rows, columns):  # a field in space keeps its shape
        rows = columns = max(rows, columns)
    shown = np.ma.masked_invalid((field[::-1] - low) / (high - low))
    pixels = matplotlib.colormaps[colors].with_extremes(bad="#8d97a6")(shown, bytes=True)
    buffer = io.BytesIO()
    wide = pixels.repeat(rows, axis=0).repeat(columns, axis=1)
    imsave(buffer, wide, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _words(field: Array, dims: Sequence[str]) -> str:
    """Least, median and greatest, and where: a map for those who do not see it."""
    told = []
    for word, at in (("least", np.nanargmin(field)), ("greatest", np.nanargmax(field))):
        row, column = np.unravel_index(int(at), field.shape)
        where = f"{dims[0]} {100 * row // field.shape[0]} %, {dims[1]} "
        where += f"{100 * column // field.shape[1]} % of the way"
        told.append(f"{word} {text_of(float(field[row, column]))} at {where}")
    return "; ".join([*told, f"median {text_of(float(np.nanmedian(field)))}."])
