"""Attempts of all members over time, as inline SVG with a table that says the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cluster.accounts.timeline import Parts
from cluster.accounts.usage import AttemptUsage, MemberUsage
from cluster.cause import Cause
from cluster.scheduler.quantities import duration
from pipelines.report.content import Measured, Table
from pipelines.report.elements import details, table_html
from pipelines.report.scales import clock_text, clock_ticks

#: In the order in which an attempt goes through them; saves are drawn together behind its steps.
PARTS = {
    "startup": "starting up",
    "useful": "useful steps",
    "saving": "saving",
    "lost": "steps taken again",
    "rest": "leaving",
}
_ROW, _BAR, _TOP = 18, 12, 22


@dataclass(frozen=True)
class _Frame:
    """What the picture shows: from when, and how many seconds."""

    start: float
    seconds: float

    def place(self, moment: float) -> float:
        """In percent of the width."""
        return 100 * (moment - self.start) / self.seconds


def timeline_html(members: Sequence[MemberUsage]) -> str:
    """The timeline of the members that have started; a sentence where none has."""
    started = [member for member in members if member.attempts]
    if not started:
        return "<p>No member has started yet.</p>"
    attempts = [a for member in started for a in member.attempts]
    first = min(a.started for a in attempts)
    last = max(a.started + a.parts.allocated for a in attempts)
    frame = _Frame(first, max(last - first, 1.0))
    height = _TOP + _ROW * len(started)
    rows = "".join(_row(member, n, frame) for n, member in enumerate(started))
    told = f"{len(attempts)} attempts of {len(started)} members in {duration(frame.seconds)}"
    return (
        f'<figure class="sheet chart">{legend(ends=True)}'
        '<div class="plot" tabindex="0" role="region" aria-label="Timeline of the members">'
        f"{_names(started, height)}"
        f'<svg width="100%" height="{height}" role="img" aria-labelledby="time-t time-d">'
        '<title id="time-t">Attempts of the members over time</title>'
        f'<desc id="time-d">{told}; the table below says when each began and how it ended.</desc>'
        f"{_grid(frame, height)}{rows}</svg></div>"
        f"{details('The same as a table', _table(started, frame))}</figure>"
    )


def parts_bar(parts: Parts, label: str) -> str:
    """The shares of a time as one bar.

    Args:
        parts: Where the time went.
        label: Whose it is.
    """
    whole, at, bars = parts.allocated or 1.0, 0.0, ""
    for name in PARTS:
        share = 100 * getattr(parts, name) / whole
        bars += _rect(name, at, share, 0, 16)
        at += share
    told = ", ".join(f"{text} {getattr(parts, k) / whole:.0%}" for k, text in PARTS.items())
    return (
        f'<svg width="100%" height="16" role="img" aria-label="{escape(f"{label}: {told}")}">'
        f"{bars}</svg>"
    )


def _row(member: MemberUsage, n: int, frame: _Frame) -> str:
    top = _TOP + _ROW * n + (_ROW - _BAR) // 2
    return "".join(_attempt(member, attempt, top, frame) for attempt in member.attempts)


def _attempt(member: MemberUsage, attempt: AttemptUsage, top: int, frame: _Frame) -> str:
    title = f"{member.name}, attempt {attempt.number}: {_told(attempt)}"
    moment, bars = attempt.started, ""
    for name in PARTS:
        seconds = getattr(attempt.parts, name)
        if seconds > 0:
            bars += _rect(name, frame.place(moment), 100 * seconds / frame.seconds, top, _BAR)
        moment += seconds
    if attempt.cause not in (None, Cause.FINISHED):
        at = f"{frame.place(moment):.2f}%"
        bars += f'<line class="end" x1="{at}" x2="{at}" y1="{top - 3}" y2="{top + _BAR + 3}"/>'
    return f'<g class="span"><title>{escape(title)}</title>{bars}</g>'


def _rect(kind: str, at: float, width: float, top: int, height: int) -> str:
    return f'<rect class="{kind}" x="{at:.2f}%" y="{top}" width="{width:.2f}%" height="{height}"/>'


def _told(attempt: AttemptUsage) -> str:
    ended = str(attempt.cause or "no end noted")
    return f"{ended} after {duration(attempt.parts.allocated)}"


def _names(members: Sequence[MemberUsage], height: int) -> str:
    # About the width of a letter at this size; a name is no longer than its stage's.
    width = 8 + 7 * max(len(member.name) for member in members)
    names = "".join(
        f'<text class="name" x="0" y="{_TOP + _ROW * n + 13}">{escape(member.name)}</text>'
        for n, member in enumerate(members)
    )
    return f'<svg width="{width}" height="{height}" aria-hidden="true">{names}</svg>'


def _grid(frame: _Frame, height: int) -> str:
    marks = []
    for seconds in clock_ticks(frame.seconds, 4):
        at = 100 * seconds / frame.seconds
        anchor = "start" if at < 4 else "end" if at > 94 else "middle"
        marks.append(
            f'<line class="grid" x1="{at:.2f}%" x2="{at:.2f}%" y1="16" y2="{height}"/>'
            f'<text x="{at:.2f}%" y="12" text-anchor="{anchor}">{clock_text(seconds)}</text>'
        )
    return "".join(marks)


def legend(ends: bool = False) -> str:
    """What the colors say; and the mark of an end, where ends are drawn."""
    items = "".join(
        f'<li><svg width="14" height="12" aria-hidden="true"><rect class="{name}" width="14" '
        f'height="12" rx="2"/></svg>{text}</li>'
        for name, text in PARTS.items()
    )
    if not ends:
        return f'<ul class="legend">{items}</ul>'
    mark = '<line class="end" x1="7" x2="7" y1="0" y2="12"/>'
    ended = f'<svg width="14" height="12" aria-hidden="true">{mark}</svg>'
    return f'<ul class="legend">{items}<li>{ended}ended before it was done</li></ul>'


def _table(members: Sequence[MemberUsage], frame: _Frame) -> str:
    rows = [
        [
            f"{member.name}, {attempt.number}",
            _time(attempt.started - frame.start),
            str(attempt.cause or "not noted"),
            *(_time(getattr(attempt.parts, name)) for name in PARTS),
        ]
        for member in members
        for attempt in member.attempts
    ]
    columns = ["Attempt", "Began after", "Ended by", *(t.capitalize() for t in PARTS.values())]
    return table_html(Table("Attempts", columns, rows))


def _time(seconds: float) -> Measured:
    return Measured(seconds, duration(seconds))
