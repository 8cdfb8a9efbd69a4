"""The frame of a chart as inline SVG: sharp at any size, its text selectable, without script."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from pipelines.report.curves import Array
from pipelines.report.elements import details
from pipelines.report.scales import Scale

_HEIGHT = 240
#: Both sides of what is drawn inside a frame, whatever its size on the page.
UNITS = 1000


@dataclass(frozen=True)
class Frame:
    """Axes with their names.

    Args:
        x: To the right.
        y: Up.
        along: What x is.
        whole: Whether only whole numbers are written below.
    """

    x: Scale
    y: Scale
    along: str
    whole: bool = True

    def html(self, key: str, title: str, legend: str, words: str, drawn: str, table: str) -> str:
        """A figure with a table that says the same.

        Args:
            key: A word that no other chart of the page has.
            title: What is drawn, and of what.
            legend: HTML that says what is which.
            words: What one sees, for those who do not.
            drawn: SVG in :data:`UNITS`.
            table: HTML.
        """
        return (
            f'<figure class="sheet chart"><h3>{escape(title)}</h3>{legend}'
            f'<div class="plot">{self._left()}'
            f'<svg width="100%" height="{_HEIGHT + 40}" role="img" '
            f'aria-labelledby="{key}-t {key}-d"><title id="{key}-t">{escape(title)}</title>'
            f'<desc id="{key}-d">{escape(words)}</desc>{self._grid()}'
            f'<svg y="10" width="100%" height="{_HEIGHT}" viewBox="0 0 {UNITS} {UNITS}" '
            f'preserveAspectRatio="none">{drawn}</svg></svg></div>'
            f"{details('The same as a table', table)}</figure>"
        )

    def across(self, values: Sequence[float] | Array) -> list[int]:
        """Places along x."""
        return [round(UNITS * self.x(value)) for value in values]

    def points(self, across: Sequence[int], values: Array) -> Iterator[str]:
        """Those of the values that are finite, where they are drawn."""
        for place, value in zip(across, values, strict=True):
            if np.isfinite(value):
                yield f"{place},{round(UNITS * (1 - self.y(float(value))))}"

    def path(self, across: Sequence[int], values: Array) -> str:
        """A line through the values that are finite, of which there is one at least."""
        points = list(self.points(across, values))
        # A single point has no length: a stroke of one unit shows it.
        return f"M{points[0]}h1" if len(points) == 1 else "M" + "L".join(points)

    def band(self, across: Sequence[int], low: Array, high: Array) -> str:
        """What lies between two lines."""
        outline = [*self.points(across, high), *reversed(list(self.points(across, low)))]
        return f'<polygon class="band" points="{" ".join(outline)}"/>'

    def _left(self) -> str:
        """The values on the axis, in a column as wide as they need."""
        labels = "".join(
            f'<text x="52" y="{self._down(value):.0f}" dy="4" text-anchor="end">'
            f"{self.y.text(value)}</text>"
            for value in self.y.ticks()
        )
        return f'<svg width="60" height="{_HEIGHT + 40}" aria-hidden="true">{labels}</svg>'

    def _grid(self) -> str:
        lines = "".join(
            f'<line class="grid" x1="0" x2="100%" y1="{at:.0f}" y2="{at:.0f}"/>'
            for at in map(self._down, self.y.ticks())
        )
        ticks = [value for value in self.x.ticks(4) if not self.whole or value == int(value)]
        labels = "".join(_label(f"{value:g}", self.x(value), _HEIGHT + 26) for value in ticks)
        return lines + labels + _label(escape(self.along), 1.0, _HEIGHT + 40)

    def _down(self, value: float) -> float:
        return 10 + _HEIGHT * (1 - self.y(value))


def _label(text: str, place: float, down: int) -> str:
    anchor = "start" if place < 0.04 else "end" if place > 0.96 else "middle"
    return f'<text x="{100 * place:.2f}%" y="{down}" text-anchor="{anchor}">{text}</text>'


def legend_html(items: Sequence[tuple[str, str]]) -> str:
    """What colors say.

    Args:
        items: A class of the style sheet, and what it stands for.
    """
    lines = "".join(
        f'<li><svg width="14" height="12" aria-hidden="true"><rect class="key {kind}" width="14" '
        f'height="12" rx="2"/></svg>{escape(text)}</li>'
        for kind, text in items
    )
    return f'<ul class="legend">{lines}</ul>'
