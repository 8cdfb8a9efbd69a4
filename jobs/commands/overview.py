"""Where a run stands, drawn for a terminal: every member, or of a thousand what fits on it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.scheduler.quantities import duration
from cluster.status import ENDED_SHORT, MemberStatus, State

_STYLES = {
    State.FINISHED: "green",
    State.RUNNING: "cyan",
    State.FAILED: "bold red",
    State.LOST: "bold red",
    State.CANCELLED: "yellow",
}
#: Up to so many members a table has a row for each of them.
_FEW = 60
_BAR = 20


def print_status(run: Path, members: Sequence[MemberStatus], everyone: bool) -> None:
    """Print a row for each member, or an overview where they are many."""
    console = Console()
    if everyone or len(members) <= _FEW:
        console.print(_table(run, members))
    else:
        console.print(overview(run, members, lines=_FEW))


@contextmanager
def live(run: Path) -> Iterator[Callable[[Sequence[MemberStatus]], None]]:
    """Give a function that draws an overview over the last one; at the end it is wiped away."""
    console, pace = Console(), Pace()
    with Live(console=console, auto_refresh=False, transient=True) as screen:

        def show(members: Sequence[MemberStatus]) -> None:
            left = pace.seconds_left(members, time.monotonic())
            # A line less than the terminal has, or it would scroll; one more is the cursor's.
            drawn = overview(run, members, console.size.height - 2, left)
            screen.update(drawn, refresh=True)

        yield show


class Pace:
    """How fast members take steps, from looking at them again and again."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, int, int], tuple[float, int]] = {}

    def seconds_left(
        self, members: Sequence[MemberStatus], now: float
    ) -> dict[tuple[str, int], float]:
        """Seconds that running members will still take, of those that were seen to move.

        Args:
            members: Where they stand.
            now: The time, in seconds.
        """
        found = {}
        for m in members:
            if m.state is not State.RUNNING or m.step is None or m.of is None:
                continue
            began, first = self._first.setdefault((m.stage, m.index, m.attempts), (now, m.step))
            if m.step > first:
                found[m.stage, m.index] = (m.of - m.step) * (now - began) / (m.step - first)
        return found


def overview(
    run: Path,
    members: Sequence[MemberStatus],
    lines: int,
    left: Mapping[tuple[str, int], float] | None = None,
) -> RenderableType:
    """Counts a stage, running members, and what went wrong, in so many lines.

    Args:
        run: The run directory.
        members: Where its members stand.
        lines: Lines to fill at most.
        left: Seconds that running members will still take, where known.
    """
    running = [m for m in members if m.state is State.RUNNING]
    failed = [m for m in members if m.state in ENDED_SHORT]
    counts = _counts(run, members)
    # Headings and the lines that tell of what is left out take one each.
    room = max(0, lines - counts.row_count - 2 - 4)
    for_failed = min(len(failed), room // 2 if running else room)
    for_running = min(len(running), room - for_failed)
    parts: list[RenderableType] = [counts]
    if running:
        parts += [_heading("running"), _running(running[:for_running], left or {})]
        parts += _more(len(running) - for_running, "--state running")
    if failed:
        parts += [_heading("ended short"), _failures(failed[:for_failed])]
        parts += _more(len(failed) - for_failed, "--failed")
    return Group(*parts)


def _counts(run: Path, members: Sequence[MemberStatus]) -> Table:
    """A row for each stage with the states that there are."""
    counts = Counter((m.stage, m.state) for m in members)
    states = [state for state in State if any(found is state for _, found in counts)]
    table = Table(box=None, padding=(0, 1, 0, 0), title=_line(run.name), title_justify="left")
    table.add_column("stage", no_wrap=True)
    for state in states:
        table.add_column(Text(state, style=_STYLES.get(state, "")), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for stage in dict.fromkeys(m.stage for m in members):
        of = sum(m.stage == stage for m in members)
        cells = [str(counts[stage, state] or "·") for state in states]
        done = counts[stage, State.FINISHED]
        table.add_row(stage, *cells, ProgressBar(total=of, completed=done, width=_BAR // 2))
    return table


def _running(
    members: Sequence[MemberStatus], left: Mapping[tuple[str, int], float]
) -> RenderableType:
    table = _grid()
    for m in members:
        bar = ProgressBar(total=m.of or 1, completed=m.step or 0, width=_BAR)
        known = left.get((m.stage, m.index))
        again = f"attempt {m.attempts} after {m.cause}" if m.cause else ""
        table.add_row(
            _name(m),
            bar if m.of else "",
            "" if m.of is None else f"{m.step}/{m.of}",
            "" if known is None else f"{duration(known)} left",
            _line(m.detail if m.detail and not m.detail.startswith("Slurm:") else again),
        )
    return table


def _failures(members: Sequence[MemberStatus]) -> RenderableType:
    table = _grid()
    for m in members:
        state = Text(m.state, style=_STYLES.get(m.state, ""))
        table.add_row(_name(m), state, m.cause or "", _line(m.detail))
    return table


def _grid() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), show_header=False)


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _more(count: int, option: str) -> list[RenderableType]:
    text = f"… and {count} more: 'yaoki status {option}'"
    return [Text(text, style="dim", no_wrap=True, overflow="ellipsis")] if count > 0 else []


def _name(member: MemberStatus) -> Text:
    return Text(f"{member.stage}/{member.index:04d}", no_wrap=True)


def _line(text: str) -> Text:
    """The first line of a text, cut where the terminal ends."""
    return Text(text.splitlines()[0] if text else "", no_wrap=True, overflow="ellipsis")


def _table(run: Path, members: Sequence[MemberStatus]) -> Table:
    table = Table(title=run.name)
    for column in ("member", "state", "attempts", "step", "last cause", "job", "detail"):
        table.add_column(column)
    for m in members:
        table.add_row(
            _name(m),
            Text(m.state, style=_STYLES.get(m.state, "")),
            str(m.attempts),
            "" if m.of is None else f"{m.step}/{m.of}",
            m.cause or "",
            m.job_id or "",
            Text(m.detail.splitlines()[0] if m.detail else ""),
        )
    return table
