"""``status``: what became of a run, from its directory alone."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.status import ENDED_SHORT, OPEN, MemberStatus, State
from jobs.commands.exits import FAILED, OK
from jobs.commands.selection import add_run_argument, find_run
from jobs.solitude import seen_status

_POLL_SECONDS = 2.0
_STYLES = {
    State.FINISHED: "green",
    State.RUNNING: "cyan",
    State.FAILED: "bold red",
    State.LOST: "bold red",
    State.CANCELLED: "yellow",
}


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    status = commands.add_parser("status", help="where every member stands")
    add_run_argument(status)
    status.add_argument("--watch", action="store_true", help="look again until all have ended")
    status.add_argument("--json", action="store_true", help="print JSON for a program to read")
    status.set_defaults(handler=_status)


def _status(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    members = seen_status(run)
    while arguments.watch and any(member.state in OPEN for member in members):
        if sys.stdout.isatty():
            _print_counts(run, members)
        time.sleep(_POLL_SECONDS)
        members = seen_status(run)
    if arguments.json:
        print(json.dumps({"run": str(run), "members": [asdict(m) for m in members]}, indent=1))
    elif sys.stdout.isatty():
        _print_table(run, members)
    else:
        _print_plain(members)
    return FAILED if any(member.state in ENDED_SHORT for member in members) else OK


def _print_counts(run: Path, members: Sequence[MemberStatus]) -> None:
    counts = Counter(member.state for member in members)
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"\r\x1b[K{run.name}: {text}", end="", flush=True)


def _print_plain(members: Sequence[MemberStatus]) -> None:
    for m in members:
        progress = "" if m.of is None else f"{m.step}/{m.of}"
        cause = m.cause or ""
        print(
            f"{m.stage}/{m.index:04d}\t{m.state}\t{m.attempts}\t{progress}\t{cause}\t"
            f"{m.job_id or ''}\t{m.detail.splitlines()[0] if m.detail else ''}"
        )


def _print_table(run: Path, members: Sequence[MemberStatus]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=run.name)
    for column in ("member", "state", "attempts", "step", "last cause", "job", "detail"):
        table.add_column(column)
    for m in members:
        table.add_row(
            f"{m.stage}/{m.index:04d}",
            Text(m.state, style=_STYLES.get(m.state, "")),
            str(m.attempts),
            "" if m.of is None else f"{m.step}/{m.of}",
            m.cause or "",
            m.job_id or "",
            Text(m.detail.splitlines()[0] if m.detail else ""),
        )
    Console().print(table)
