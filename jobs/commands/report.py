"""``report``: what a run was given, what came of it, and what to ask for next time."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster.advice import Advice, advice
from cluster.bookkeeping import run_usage
from cluster.quantities import MemorySize, Walltime
from cluster.usage import AttemptUsage, RunUsage, StageUsage, Totals
from jobs.commands.exits import OK
from jobs.commands.selection import add_run_argument, chosen_members, find_run

_COLUMNS = (
    *("member", "tries", "causes", "elapsed", "core-h", "GPU-h"),
    *("goodput", "wasted", "memory", "CPU"),
)
#: Those that may be broken into lines where the terminal is narrow.
_FLEXIBLE = ("causes", "wasted")
#: What the settings are called in submitit's parameters.
_PARAMETERS = {
    "memory": "mem_gb",
    "time": "timeout_min",
    "signal_delay": "slurm_signal_delay_s",
    "cpus": "cpus_per_task",
}


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    text = "time, memory and goodput of every member, and what to ask for next time"
    report = commands.add_parser("report", help=text, description=text)
    add_run_argument(report)
    report.add_argument("--member", action="append", default=[], help="such as train or train/2")
    report.add_argument("--json", action="store_true", help="print JSON for a program to read")
    report.set_defaults(handler=_report)


def _report(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    usage = _only(run_usage(run), arguments.member)
    found = [line for stage in usage.stages for line in advice(stage)]
    if arguments.json:
        print(json.dumps(record(usage, found), indent=1))
        return OK
    rows = [row for stage in usage.stages for row in _rows(stage)]
    if sys.stdout.isatty():
        _print_table(run, rows)
    else:
        print("\n".join("\t".join(row) for row in [_COLUMNS, *rows]))
    lines = [*_notes(usage), *(_sentence(run, line) for line in found)]
    if lines:
        print("", *lines, sep="\n")
    return OK


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


def duration(seconds: float) -> str:
    """A time in two figures that matter: ``4.2s``, ``12:05`` or ``31h02``."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes}:{round(seconds) % 60:02d}"
    return f"{minutes // 60}h{minutes % 60:02d}"


def _notes(usage: RunUsage) -> Iterator[str]:
    attempts = [a for stage in usage.stages for a in stage.totals.attempts]
    if any(attempt.estimated for attempt in attempts):
        yield "~ estimated: nobody noted an end, and the last sign of life is taken for it"
    if usage.accounting:
        yield f"without Slurm's accounting: {usage.accounting.splitlines()[0]}"
    page = usage.run / "report" / "index.html"
    if page.exists():
        yield f"scores and pictures: {page}"


def _sentence(run: Path, line: Advice) -> str:
    return f"advice: {line.stage}: {line.reason}. {setting(run, line)}; saves {line.gain}"


def setting(run: Path, line: Advice) -> str:
    """What to change and how, as one writes it where the run came from."""
    value: object = line.value
    if line.setting == "step" or line.value is None:
        return "Take shorter steps"
    if line.setting == "microbatch":
        return f"Set the microbatch of the work to {value}"
    if (run / "plan.yaml").exists():
        if line.setting == "memory":
            value = MemorySize(line.value)
        elif line.setting == "time":
            value = Walltime(line.value)
        return f"Set resources.{line.stage}.{line.setting}={value}"
    if line.setting == "checkpoint_seconds":
        return f"Use RobustExecutor(..., checkpoint_seconds={value})"
    if line.setting == "memory":
        value = f"{line.value / 1024:g}"
    elif line.setting == "time":
        value = -(-line.value // 60)
    return f"Use update_parameters({_PARAMETERS[line.setting]}={value})"


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
