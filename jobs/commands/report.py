"""``report``: the page of a run, what it was given, and what to ask for next time."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.accounts.advice import Advice, advice
from cluster.accounts.bookkeeping import run_usage
from cluster.accounts.usage import AttemptUsage, RunUsage, StageUsage, Totals
from cluster.scheduler.quantities import duration
from cluster.status import OPEN
from jobs.advising import sentence
from jobs.commands.exits import OK
from jobs.commands.selection import add_every_option, add_run_argument, chosen_members, find_run

if TYPE_CHECKING:
    from pipelines.report import RunState

_COLUMNS = (
    *("member", "tries", "causes", "elapsed", "core-h", "GPU-h"),
    *("goodput", "wasted", "memory", "CPU"),
)
#: Those that may be broken into lines where the terminal is narrow.
_FLEXIBLE = ("causes", "wasted")


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    text = "the page of a run; time, memory and goodput of every member; what to ask for next time"
    report = commands.add_parser("report", help=text, description=text)
    add_run_argument(report)
    report.add_argument("--member", action="append", default=[], help="such as train or train/2")
    report.add_argument("--html", type=Path, metavar="PATH", help="write the page there")
    add_every_option(report, 30.0)
    how = report.add_mutually_exclusive_group()
    how.add_argument("--no-html", action="store_true", help="write no page")
    how.add_argument("--watch", action="store_true", help="write it anew until all have ended")
    how.add_argument(
        "--json", action="store_true", help="print JSON for a program to read; write no page"
    )
    report.set_defaults(handler=_report)


def _report(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    usage = run_usage(run)
    shown = _only(usage, arguments.member)
    found = [line for stage in shown.stages for line in advice(stage)]
    if arguments.json:
        print(json.dumps(record(shown, found), indent=1))
        return OK
    rows = [row for stage in shown.stages for row in _rows(stage)]
    if sys.stdout.isatty():
        _print_table(run, rows)
    else:
        print("\n".join("\t".join(row) for row in [_COLUMNS, *rows]))
    lines = [*_notes(shown), *(f"advice: {sentence(run, line)}" for line in found)]
    if lines:
        print("", *lines, sep="\n")
    if not arguments.no_html:
        _write(usage, arguments)
    return OK


def _write(usage: RunUsage, arguments: argparse.Namespace) -> None:
    """Write the page, once or for as long as the run goes on, and say where it is."""
    from jobs.page import run_state  # it brings what draws; the table needs none of it
    from pipelines.report import page_of, write_run_page

    target: Path = arguments.html or page_of(usage.run)
    state = run_state(usage.run, usage)
    going = arguments.watch and _goes_on(state)
    try:
        write_run_page(state, target, arguments.every if going else None)
    except OSError as error:
        # Whoever may only read the run is told of it all the same.
        if arguments.html or error.errno not in (EACCES, EPERM, EROFS):
            raise
        print(f"yaoki: {error}; --html PATH writes the page elsewhere", file=sys.stderr)
        return
    print(f"\npage: {target}", flush=True)
    if going:
        _follow(usage.run, target, arguments.every)


def _follow(run: Path, target: Path, every: float) -> None:
    from jobs.page import run_state
    from pipelines.report import write_run_page

    try:
        going = True
        while going:
            time.sleep(every)
            state = run_state(run)
            going = _goes_on(state)
            write_run_page(state, target, every)
    finally:
        # The page of a watch that has ended no longer loads itself again.
        write_run_page(run_state(run), target)


def _goes_on(state: "RunState") -> bool:
    # Where Slurm does not answer nobody knows, and it is asked again.
    return bool(state.problem) or any(member.state in OPEN for member in state.members)


def _only(usage: RunUsage, names: Sequence[str]) -> RunUsage:
    """The usage of some members."""
    chosen = {(member.stage, member.index) for member in chosen_members(usage.run, names)}
    stages = [
        replace(stage, members=[m for m in stage.members if (m.stage, m.index) in chosen])
        for stage in usage.stages
    ]
    return replace(usage, stages=[stage for stage in stages if stage.members])


def record(usage: RunUsage, found: Sequence[Advice]) -> dict[str, Any]:
    """All of it as plain values. Times are in seconds, memory in MiB."""
    return {
        "run": str(usage.run),
        "accounting": usage.accounting or None,
        "stages": [
            {"name": stage.stage.name, "members": len(stage.members), **_sums(stage.totals)}
            for stage in usage.stages
        ],
        "members": [
            {
                "stage": member.stage,
                "index": member.index,
                "finished": member.finished,
                **_sums(member.totals),
                "ends": [_end(attempt) for attempt in member.attempts],
            }
            for stage in usage.stages
            for member in stage.members
        ],
        "advice": [asdict(line) for line in found],
    }


def _sums(totals: Totals) -> dict[str, Any]:
    return {
        "attempts": len(totals.attempts),
        "causes": dict(totals.causes),
        "allocated": totals.parts.allocated,
        "parts": asdict(totals.parts),
        "waste": totals.waste,
        "waited": totals.waited,
        "goodput": totals.parts.goodput,
        "core_hours": totals.core_hours,
        "gpu_hours": totals.gpu_hours,
        "cpu_efficiency": totals.cpu_efficiency,
        "memory": totals.memory,
        "peak": totals.peak,
    }


def _end(attempt: AttemptUsage) -> dict[str, Any]:
    return asdict(attempt) | {"allocated": attempt.parts.allocated}


def _rows(stage: StageUsage) -> Iterator[tuple[str, ...]]:
    for member in stage.members:
        if member.attempts:
            yield _row(member.name, member.totals)
    if len(stage.members) > 1 and stage.totals.attempts:
        yield _row(f"{stage.stage.name}: {len(stage.members)}", stage.totals)


def _row(name: str, totals: Totals) -> tuple[str, ...]:
    parts = totals.parts
    used = "?" if totals.peak is None else f"{totals.peak:.0f}"
    asked = "?" if totals.memory is None else str(totals.memory)
    wasted = f"{duration(parts.allocated - parts.useful)} {next(iter(totals.waste), '')}"
    estimated = "~" if any(a.estimated for a in totals.attempts) else ""
    return (
        name,
        str(len(totals.attempts)),
        ", ".join(f"{count} {cause}" for cause, count in totals.causes.most_common()),
        estimated + duration(parts.allocated),
        _hours(totals.core_hours),
        "?" if totals.gpu_hours is None else _hours(totals.gpu_hours),
        "" if parts.goodput is None else f"{parts.goodput:.0%}",
        wasted.strip(),
        f"{used}/{asked}M",
        "?" if totals.cpu_efficiency is None else f"{totals.cpu_efficiency:.0%}",
    )


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"


def _notes(usage: RunUsage) -> Iterator[str]:
    attempts = [a for stage in usage.stages for a in stage.totals.attempts]
    if any(attempt.estimated for attempt in attempts):
        yield "~ estimated: nobody noted an end, and the last sign of life is taken for it"
    if usage.accounting:
        yield f"without Slurm's accounting: {usage.accounting.splitlines()[0]}"


def _print_table(run: Path, rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Of cores and GPUs those are shown that are the dearer.
    gpus = _COLUMNS.index("GPU-h")
    hidden = "core-h" if any(row[gpus] not in ("0", "?") for row in rows) else "GPU-h"
    shown = [n for n, name in enumerate(_COLUMNS) if name != hidden]
    table = Table(title=f"{run.name}: time and memory", box=None, padding=(0, 1, 0, 0))
    for name in (_COLUMNS[n] for n in shown):
        if name in _FLEXIBLE:
            table.add_column(name, min_width=8, overflow="fold")
        else:
            table.add_column(name, justify="left" if name == "member" else "right", no_wrap=True)
    for row in rows:
        style = "bold" if ":" in row[0] else ""
        table.add_row(*(Text(row[n]) for n in shown), style=style)
    Console().print(table)
