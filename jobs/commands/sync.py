"""``sync``: send Weights & Biases what it lacks of the members' metrics."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.records.member import Member
from cluster.stage import RunError
from jobs.commands.exits import OK, UNAVAILABLE
from jobs.commands.selection import add_run_argument, chosen_members, find_run

if TYPE_CHECKING:
    from pipelines.sinks import WandbRun
    from pipelines.syncing import Gap

#: Members that one 'wandb sync' is given: starting it takes seconds.
_AT_ONCE = 16


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    sync = commands.add_parser("sync", help="send Weights & Biases the metrics that it lacks")
    add_run_argument(sync)
    sync.add_argument(
        "--member", action="append", default=[], help="such as train, train/2 or trial/3"
    )
    sync.add_argument(
        "--project", type=_project, help="W&B project of members that ran without W&B"
    )
    sync.add_argument("--dry-run", action="store_true", help="only tell what is lacking")
    sync.add_argument("--json", action="store_true", help="print JSON for a program to read")
    sync.set_defaults(handler=_sync)


def _project(text: str) -> str:
    from pipelines.tracking.settings import project_name

    try:
        return project_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _sync(arguments: argparse.Namespace) -> int:
    from pipelines.syncing import tracked

    run = find_run(arguments)
    found = list(tracked(_chosen(run, arguments.member), arguments.project))
    if not found:
        raise RunError(
            f"{run.name}: expected members with metrics that know their W&B project, found none. "
            "Name it with --project, or start jobs with tracking.wandb=true."
        )
    told = _look(found) if arguments.dry_run else _send(run, found)
    records = []
    for record in told:
        records.append(record)
        if not arguments.json:
            print(_line(record), flush=True)
    if arguments.json:
        print(json.dumps({"run": str(run), "members": records}, indent=1))
    refused = [record["error"] for record in records if record["error"]]
    if refused:
        print(
            f"yaoki: W&B did not take the rows of {len(refused)} members: {refused[0]}\n"
            "Nothing is lost: the same command sends what is lacking then.",
            file=sys.stderr,
        )
    return UNAVAILABLE if refused else OK


def _chosen(run: Path, names: Sequence[str]) -> list[Member]:
    """Members and the trials of a search, by name; all where none is named."""
    from pipelines.search import TRIALS, begun_trials

    trials = begun_trials(run)
    if not names:
        return chosen_members(run, ()) + trials
    of_trials = [name for name in names if name.partition("/")[0] == TRIALS]
    others = [name for name in names if name not in of_trials]
    members = chosen_members(run, others) if others else []
    for name in of_trials:
        fitting = [one for one in trials if name in (TRIALS, f"{TRIALS}/{one.index}", one.name)]
        if not fitting:
            raise RunError(f"{run.name}: expected one of {len(trials)} trials, found '{name}'")
        members += fitting
    return members


def _look(found: "Sequence[tuple[Member, WandbRun]]") -> Iterator[dict[str, Any]]:
    """What is lacking, by the record of what was sent where no server can be asked."""
    from pipelines.syncing import find_gap
    from pipelines.wandb_server import SyncError

    ask = True
    for member, name in found:
        try:
            gap = find_gap(member, name, ask)
        except SyncError as error:
            print(f"yaoki: {error}\nWhat was sent from here is known:", file=sys.stderr)
            ask = False
            gap = find_gap(member, name, ask)
        yield _record(gap, 0, None)


def _send(run: Path, found: "Sequence[tuple[Member, WandbRun]]") -> Iterator[dict[str, Any]]:
    from pipelines.syncing import find_gap, send, workplace

    with workplace(run) as directory:
        for start in range(0, len(found), _AT_ONCE):
            gaps = [find_gap(*one) for one in found[start : start + _AT_ONCE]]
            yield from _outcomes(gaps, send(gaps, directory))


def _outcomes(gaps: "Sequence[Gap]", refused: Mapping[Member, str]) -> Iterator[dict[str, Any]]:
    for gap in gaps:
        error = refused.get(gap.member)
        yield _record(gap, 0 if error else len(gap.lacking), error)


def _record(gap: "Gap", sent: int, error: str | None) -> dict[str, Any]:
    counts = {"shown": len(gap.shown), "lacking": len(gap.lacking), "sent": sent}
    return {"member": gap.member.name, "wandb": gap.run.path, **counts, "error": error}


def _line(record: Mapping[str, Any]) -> str:
    if record["error"]:
        did = "not taken"
    elif record["sent"]:
        did = f"{record['sent']} sent"
    else:
        did = f"{record['lacking']} lacking" if record["lacking"] else "all there"
    return f"{record['member']}\t{record['wandb']}\t{record['shown']} steps there\t{did}"
