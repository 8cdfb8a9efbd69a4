"""``compare``: what two runs were asked for, and what came of them, side by side."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.commands.exits import OK
from jobs.commands.selection import add_runs_option, find_run

if TYPE_CHECKING:
    from pipelines.report import Comparison


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    text = "what two runs were asked for, and what came of them, side by side"
    compare = commands.add_parser("compare", help=text, description=text)
    for name in ("first", "second"):
        compare.add_argument(name, help="run directory, or the start of its name")
    add_runs_option(compare)
    compare.add_argument("--html", type=Path, metavar="PATH", help="write a page with the losses")
    compare.add_argument("--json", action="store_true", help="print JSON for a program to read")
    compare.set_defaults(handler=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from jobs.page import run_state
    from pipelines.report import Comparison, write_comparison

    named = (arguments.first, arguments.second)
    runs = [find_run(argparse.Namespace(run=name, runs=arguments.runs)) for name in named]
    both = Comparison(*map(run_state, runs))
    if arguments.html:
        write_comparison(arguments.html, both)
    if arguments.json:
        print(json.dumps(record(both), indent=1))
    elif sys.stdout.isatty():
        _print_tables(both)
    else:
        for part, pairs in _parts(both).items():
            for row in _rows(pairs):
                print("\t".join((part, *row)))
    if arguments.html and not arguments.json:
        print(f"\npage: {arguments.html}")
    return OK


def record(both: "Comparison") -> dict[str, Any]:
    """All of it as plain values. Times are in seconds, memory in MiB."""
    return {"first": str(both.first.run), "second": str(both.second.run), **_parts(both)}


def _parts(both: "Comparison") -> dict[str, Mapping[str, tuple[object, object]]]:
    return {
        "configuration": both.configuration,
        "scores": both.scores,
        "accounts": both.accounts,
    }


def _rows(pairs: Mapping[str, Sequence[object]]) -> Iterator[tuple[str, ...]]:
    for key, pair in pairs.items():
        yield (
            key,
            *("" if v is None else f"{v:.5g}" if type(v) is float else str(v) for v in pair),
        )


def _print_tables(both: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for part, pairs in _parts(both).items():
        if not pairs:
            continue
        table = Table(title=part, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("", both.first.run.name, both.second.run.name):
            table.add_column(name, overflow="fold")
        for row in _rows(pairs):
            table.add_row(*map(Text, row))
        Console().print(table)
