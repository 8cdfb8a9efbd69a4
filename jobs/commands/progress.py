"""Progress on the terminal: a bar for each stage and each running member."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.status import ENDED_SHORT, MemberStatus, State, run_status

_SECONDS = 0.5


@contextmanager
def watching(run: Path, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """Give a function that, called often, shows now and then where the run stands.

    On a terminal it draws bars; elsewhere it prints a line whenever a member ends.
    """
    if quiet:
        yield lambda: None
    elif sys.stdout.isatty():
        yield from _bars(run)
    else:
        lines = _Lines(run)
        yield lines
        lines.due = 0.0  # whoever has ended since it looked last
        lines()


class _Lines:
    """A line for every member that ends from now on, for logs."""

    def __init__(self, run: Path) -> None:
        self.run, self.due = run, 0.0
        self.told = self._ended()

    def __call__(self) -> None:
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + 2 * _SECONDS
        ended = self._ended()
        for key in (key for key in ended if key not in self.told):
            print(ended[key], flush=True)
        self.told |= ended

    def _ended(self) -> dict[tuple[str, int, int], str]:
        return {
            (m.stage, m.index, m.attempts): f"{m.stage}/{m.index:04d} {m.state}"
            for m in run_status(self.run)
            if m.state is State.FINISHED or m.state in ENDED_SHORT
        }


def _bars(run: Path) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn())
    due = 0.0
    with Progress(*columns, TimeElapsedColumn()) as progress:
        tasks: dict[str, int] = {}

        def show(name: str, done: int, of: int | None, visible: bool) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=of)
            task = progress.tasks[tasks[name]].id
            progress.update(task, completed=done, total=of, visible=visible)

        def watch() -> None:
            nonlocal due
            if time.monotonic() < due:
                return
            due = time.monotonic() + _SECONDS
            members = run_status(run)
            for stage in dict.fromkeys(member.stage for member in members):
                _show_stage([m for m in members if m.stage == stage], show)

        yield watch
        due = 0.0
        watch()


def _show_stage(
    members: list[MemberStatus], show: Callable[[str, int, int | None, bool], None]
) -> None:
    stage = members[0].stage
    done = sum(member.state is State.FINISHED for member in members)
    active = any(member.state is not State.PLANNED for member in members)
    show(stage, done, len(members), active)
    for member in members:
        name = f"  {stage}/{member.index:04d}"
        running = member.state is State.RUNNING
        show(name, member.step or 0, member.of, running and member.of is not None)
