"""``cancel``, ``retry``: give members up, or start again what has not finished."""

import argparse
import json
import socket
from pathlib import Path

from cluster.executor import Backend
from cluster.local import ask_to_leave
from cluster.records.member import Member
from cluster.scheduler import slurm
from cluster.stage import RunError
from cluster.status import OPEN
from jobs.commands.exits import OK
from jobs.commands.launch import run_here
from jobs.commands.selection import add_run_argument, chosen_members, find_run, workload_of
from jobs.launch import Launcher
from jobs.solitude import seen_status
from pipelines.config import amend
from pipelines.plan import CIRCUMSTANCES, identity


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module."""
    cancel = commands.add_parser("cancel", help="give members up; they save before they leave")
    add_run_argument(cancel)
    cancel.add_argument("--member", action="append", default=[], help="such as train or train/2")
    cancel.add_argument("--json", action="store_true", help="print JSON for a program to read")
    cancel.set_defaults(handler=_cancel)
    retry = commands.add_parser("retry", help="start again what has not finished")
    add_run_argument(retry)
    retry.add_argument(
        "--member",
        action="append",
        default=[],
        help="run it once more although it has finished, from its last checkpoint",
    )
    retry.add_argument(
        "--backend", choices=["slurm", "local"], help="where (default: where it ran)"
    )
    retry.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="key.path=value",
        help="other resources or tracking from now on, such as resources.train.memory=32G",
    )
    retry.add_argument("--json", action="store_true", help="print JSON for a program to read")
    retry.set_defaults(handler=_retry)


def _cancel(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    states = {(m.stage, m.index): m.state for m in seen_status(run)}
    members = [
        member
        for member in chosen_members(run, arguments.member)
        if states[member.stage, member.index] in OPEN
    ]
    for member in members:
        # The ledger first: an attempt that is signalled reads there that it is not wanted back.
        member.ledger.cancel()
    jobs = {member: member.ledger.last_job_id() for member in members}
    slurm.cancel([job for job in jobs.values() if job])
    for member in (member for member, job in jobs.items() if job is None):
        _leave(member)
    if arguments.json:
        print(json.dumps({"run": str(run), "cancelled": [member.name for member in members]}))
    elif members:
        print(f"cancelled {len(members)} members of {run.name}; 'yaoki retry' starts them again")
    else:
        print(f"nothing to cancel: no member of {run.name} is queued or running")
    return OK


def _leave(member: Member) -> None:
    attempts = member.ledger.attempts()
    if not attempts or attempts[-1].cause is not None:
        return
    where = attempts[-1].where
    if where["host"] != socket.gethostname():
        raise RunError(
            f"{member.name} runs on {where['host']}, out of reach from here: it is not started "
            f"again, and to stop it now type 'kill {where['pid']}' there"
        )
    ask_to_leave(member)


def _retry(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    workload, made_from = workload_of(run)
    config = amend(made_from, arguments.set)
    if identity(config) != identity(made_from):
        raise RunError(
            f"--set: expected values of {' or '.join(CIRCUMSTANCES)}, found one that changes what "
            "is computed. That is another run: 'yaoki run' or 'yaoki submit' makes it."
        )
    plan = workload.plan(config, run.parent)
    if plan.directory != run:
        raise RunError(
            f"{run}: expected the directory that its plan asks for, {plan.directory.name}, found "
            "another name. Rename it back, or use the version of yaoki that made it."
        )
    for member in chosen_members(run, arguments.member) if arguments.member else []:
        if member.ledger.finished():
            member.ledger.reopen()
    backend = arguments.backend or _last_backend(run)
    launcher = Launcher(plan, backend)
    if backend == "local":
        return run_here(launcher, arguments.json)
    launcher.lay_out()
    sent = launcher.submit()
    print(json.dumps({"run": str(run), "jobs": sent}) if arguments.json else _told(sent))
    return OK


def _told(sent: dict[str, list[str]]) -> str:
    if not sent:
        return "nothing to retry: every member is finished, queued or running"
    return "\n".join(f"{stage:<12}{', '.join(jobs)}" for stage, jobs in sent.items())


def _last_backend(run: Path) -> Backend:
    ids = [member.ledger.last_job_id() for member in chosen_members(run, [])]
    return "slurm" if any(ids) else "local"
