"""``watch``: what only the login node can do for members whose job has ended unheard."""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from cluster.scheduler.slurm import SlurmBusyError
from cluster.status import ENDED_SHORT, OPEN, MemberStatus
from cluster.watching import Notice, Watch
from jobs.commands.exits import FAILED, OK
from jobs.commands.selection import add_every_option, add_run_argument, find_run
from jobs.solitude import seen_status


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    text = "requeue members that their nodes could not; until all have ended"
    watch = commands.add_parser("watch", help=text, description=text)
    add_run_argument(watch)
    watch.add_argument("--once", action="store_true", help="see to what is adrift now, and return")
    add_every_option(watch, 30.0)
    watch.add_argument("--json", action="store_true", help="print JSON for a program to read")
    watch.set_defaults(handler=_watch)


def _watch(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    try:
        notices, members = _until_ended(run, arguments)
    except KeyboardInterrupt as error:
        text = "interrupted; members go on, and the same command looks after them again"
        raise KeyboardInterrupt(text) from error
    counts = Counter(member.state.value for member in members)
    if arguments.json:
        record = {"run": str(run), "done": [asdict(n) for n in notices], "members": counts}
        print(json.dumps(record, indent=1))
    else:
        print(f"{run.name}: {_told(counts)}")
    return FAILED if any(member.state in ENDED_SHORT for member in members) else OK


def _until_ended(
    run: Path, arguments: argparse.Namespace
) -> tuple[list[Notice], list[MemberStatus]]:
    watch, notices, shown = Watch(run), [], ""
    while True:
        try:
            done, members = watch.insist(), seen_status(run)
        except SlurmBusyError as error:
            if arguments.once:
                raise
            print(f"yaoki: {error}; asked again in {arguments.every:g} s", file=sys.stderr)
            time.sleep(arguments.every)
            continue
        notices += done
        counts = _told(Counter(member.state.value for member in members))
        if not arguments.json:
            _show(done, counts if counts != shown else "")
        shown = counts
        if arguments.once or not any(member.state in OPEN for member in members):
            return notices, members
        time.sleep(arguments.every)


def _show(done: list[Notice], counts: str) -> None:
    now = time.strftime("%H:%M:%S")
    for notice in done:
        where = f" ({notice.job_id})" if notice.job_id else ""
        print(f"{now} {notice.member}: {notice.text}{where}", flush=True)
    if counts:
        print(f"{now} {counts}", flush=True)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items())
