"""``logs``: what members printed, from the run directory alone."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.records.member import Member
from cluster.stage import RunError
from cluster.status import OPEN, State
from jobs.commands.exits import OK
from jobs.commands.selection import add_run_argument, chosen_members, find_run
from jobs.solitude import is_launched, seen_status

_POLL_SECONDS = 1.0


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    logs = commands.add_parser("logs", help="what members printed")
    add_run_argument(logs)
    logs.add_argument("--member", action="append", default=[], help="such as train or train/2")
    which = logs.add_mutually_exclusive_group()
    which.add_argument("--attempt", type=int, help="one attempt (default: the last)")
    which.add_argument("--follow", action="store_true", help="go on until the members have ended")
    logs.set_defaults(handler=_logs)


def _logs(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    members = chosen_members(run, arguments.member)
    if arguments.follow:
        _follow(run, members)
        return OK
    found = [(member, log) for member in members for log in _log_files(member, arguments.attempt)]
    if not found:
        wanted = "" if arguments.attempt is None else f" of attempt {arguments.attempt}"
        raise RunError(f"{run.name}: expected logs{wanted}, found none; see 'yaoki status'")
    for member, log in found:
        _print_log(member, log, 0)
    return OK


def _log_files(member: Member, attempt: int | None) -> list[Path]:
    """The log of one attempt, or of the last; without any, what the launcher caught."""
    logs = sorted(member.logs.glob("[0-9]*.log"))
    if attempt is not None:
        return [log for log in logs if int(log.stem.split("-")[0]) == attempt]
    launch = member.logs / "launch.log"
    return logs[-1:] or [log for log in [launch] if log.exists() and log.stat().st_size]


def _print_log(member: Member, log: Path, start: int) -> int:
    """Print a log from a byte on, and return where it ended."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read()
    number, _, rank = log.stem.partition("-rank")  # of a member of several processes
    attempt = f"attempt {int(number)}" if number.isdigit() else "before its first attempt"
    if rank:
        attempt += f", rank {rank}"
    print(f"==> {member.name}, {attempt} <==")
    sys.stdout.write(text.decode(errors="replace"))
    sys.stdout.flush()
    return start + len(text)


def _follow(run: Path, members: Sequence[Member]) -> None:
    ends: dict[Path, int] = {}
    going = True
    while going:
        # Asked before the logs are read: what a member printed last is not missed.
        going = _is_going(run, members)
        for member in members:
            for log in _log_files(member, None):
                if log.stat().st_size > ends.get(log, 0):
                    ends[log] = _print_log(member, log, ends.get(log, 0))
        if going:
            time.sleep(_POLL_SECONDS)


def _is_going(run: Path, members: Sequence[Member]) -> bool:
    """Whether any of the members still runs, waits, or is to come."""
    chosen = {(member.stage, member.index) for member in members}
    states = [m.state for m in seen_status(run) if (m.stage, m.index) in chosen]
    to_come = State.PLANNED in states and is_launched(run)
    return to_come or any(state in OPEN for state in states)
