"""``status``, ``logs``: what became of a run, from its directory alone."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.status import ENDED_SHORT, MemberStatus, State, run_status
from jobs.commands.exits import FAILED, OK
from jobs.commands.selection import add_run_argument, chosen_members, find_run

_STYLES = {
    State.FINISHED: "green",
    State.RUNNING: "cyan",
    State.FAILED: "bold red",
    State.LOST: "bold red",
    State.CANCELLED: "yellow",
}


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module."""
    status = commands.add_parser("status", help="where every member stands")
    add_run_argument(status)
    status.add_argument("--watch", action="store_true", help="look again until all have ended")
    status.add_argument("--json", action="store_true", help="print JSON for a program to read")
    status.set_defaults(handler=_status)
    logs = commands.add_parser("logs", help="what members printed")
    add_run_argument(logs)
    logs.add_argument("--member", action="append", default=[], help="such as train or train/2")
    logs.add_argument("--attempt", type=int, help="one attempt (default: the last)")
    logs.set_defaults(handler=_logs)


def _status(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    members = run_status(run)
    while arguments.watch and any(_is_open(member) for member in members):
        _print_counts(run, members)
        time.sleep(2.0)
        members = run_status(run)
    if arguments.json:
        print(json.dumps({"run": str(run), "members": [asdict(m) for m in members]}, indent=1))
    elif sys.stdout.isatty():
        _print_table(run, members)
    else:
        _print_plain(members)
    return FAILED if any(member.state in ENDED_SHORT for member in members) else OK


def _is_open(member: MemberStatus) -> bool:
    return member.state in (State.QUEUED, State.RUNNING, State.WAITING)


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


def _logs(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    for member in chosen_members(run, arguments.member):
        logs = sorted(member.logs.glob("[0-9]*.log"))
        if arguments.attempt is not None:
            logs = [log for log in logs if int(log.stem) == arguments.attempt]
        for log in logs[-1:]:
            print(f"==> {member.name}, attempt {int(log.stem)} <==")
            sys.stdout.write(log.read_text(errors="replace"))
    return OK
