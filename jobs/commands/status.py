"""``status``: what became of a run, from its directory alone."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from cluster.scheduler.slurm import SlurmError
from cluster.stage import RunError
from cluster.status import ENDED_SHORT, OPEN, MemberStatus, State
from jobs.commands.exits import FAILED, OK
from jobs.commands.selection import add_run_argument, find_run
from jobs.solitude import seen_status

_POLL_SECONDS = 2.0


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    status = commands.add_parser("status", help="where every member stands")
    add_run_argument(status)
    status.add_argument("--stage", action="append", default=[], help="members of a stage alone")
    which = status.add_mutually_exclusive_group()
    which.add_argument(
        "--state",
        action="append",
        default=[],
        choices=[str(state) for state in State],
        metavar="STATE",
        help=f"show members in a state alone: {', '.join(State)}",
    )
    which.add_argument(
        "--failed",
        dest="state",
        action="store_const",
        const=[str(state) for state in ENDED_SHORT],
        help=f"the same as {' '.join(f'--state {state}' for state in ENDED_SHORT)}",
    )
    status.add_argument("--watch", action="store_true", help="look again until all have ended")
    status.add_argument("--json", action="store_true", help="print JSON for a program to read")
    status.set_defaults(handler=_status)


def _status(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    members = _members(run, arguments.stage)
    if arguments.watch:
        with _display(run) as show:
            while any(member.state in OPEN for member in members):
                show(members)
                time.sleep(_POLL_SECONDS)
                members = _members(run, arguments.stage)
    shown = [m for m in members if not arguments.state or m.state in arguments.state]
    if arguments.json:
        print(json.dumps({"run": str(run), "members": [asdict(m) for m in shown]}, indent=1))
    elif sys.stdout.isatty():
        from jobs.commands.overview import print_status  # brings rich

        print_status(run, shown, everyone=bool(arguments.state))
    else:
        _print_plain(shown)
    return FAILED if any(member.state in ENDED_SHORT for member in members) else OK


def _members(run: Path, stages: Sequence[str]) -> list[MemberStatus]:
    """Members of some stages, of all where none is named.

    Raises:
        RunError: There is no such stage.
    """
    members = _settled_status(run)
    known = list(dict.fromkeys(m.stage for m in members))
    for name in stages:
        if name not in known:
            raise RunError(f"{run.name}: expected a stage ({', '.join(known)}), found '{name}'")
    return [m for m in members if not stages or m.stage in stages]


@contextmanager
def _display(run: Path) -> Iterator[Callable[[Sequence[MemberStatus]], None]]:
    """Give a function that shows where members stand now; only a terminal is told meanwhile."""
    if not sys.stdout.isatty():
        yield lambda members: None
        return
    from jobs.commands.overview import live  # brings rich

    with live(run) as show:
        yield show


def _settled_status(run: Path) -> list[MemberStatus]:
    """The status, after members whose job has ended unheard have been seen to."""
    members = seen_status(run)
    if not any(member.state is State.LOST and member.job_id for member in members):
        return members
    from cluster.watching import Watch  # it brings what sends jobs; most often there is no need

    try:
        for notice in Watch(run).insist():
            print(f"{notice.member}: {notice.text}", file=sys.stderr)
    except (SlurmError, PermissionError) as error:
        # Who may only read the run, or finds Slurm busy, is still told how things stand.
        print(f"yaoki: {error}", file=sys.stderr)
        return members
    return seen_status(run)


def _print_plain(members: Sequence[MemberStatus]) -> None:
    for m in members:
        progress = "" if m.of is None else f"{m.step}/{m.of}"
        cause = m.cause or ""
        print(
            f"{m.stage}/{m.index:04d}\t{m.state}\t{m.attempts}\t{progress}\t{cause}\t"
            f"{m.job_id or ''}\t{m.detail.splitlines()[0] if m.detail else ''}"
        )
