"""``cancel``, ``retry``: give members up, or start again what has not finished."""

import argparse
import json
import os
import signal
from pathlib import Path

from cluster import slurm
from cluster.executor import Backend
from cluster.member import Member
from cluster.status import State, run_status
from jobs.commands.exits import OK
from jobs.commands.selection import add_run_argument, chosen_members, find_run, workload_of
from jobs.launch import Launcher


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module."""
    cancel = commands.add_parser("cancel", help="give members up; they save before they leave")
    add_run_argument(cancel)
    cancel.add_argument("--member", action="append", default=[], help="such as train or train/2")
    cancel.set_defaults(handler=_cancel)
    retry = commands.add_parser("retry", help="start again what has not finished")
    add_run_argument(retry)
    retry.add_argument(
        "--backend", choices=["slurm", "local"], help="where (default: where it ran)"
    )
    retry.add_argument("--json", action="store_true", help="print JSON for a program to read")
    retry.set_defaults(handler=_retry)


def _cancel(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    states = {(m.stage, m.index): m.state for m in run_status(run)}
    open_states = (State.QUEUED, State.RUNNING, State.WAITING)
    members = [
        member
        for member in chosen_members(run, arguments.member)
        if states[member.stage, member.index] in open_states
    ]
    for member in members:
        # The ledger first: an attempt that is signalled reads there that it is not wanted back.
        member.ledger.cancel()
    jobs = {member: member.ledger.last_job_id() for member in members}
    slurm.cancel([job for job in jobs.values() if job])
    for member in (member for member, job in jobs.items() if job is None):
        _terminate(member, states[member.stage, member.index])
    print(f"cancelled {len(members)} members of {run.name}; 'yaoki retry' starts them again")
    return OK


def _terminate(member: Member, state: State) -> None:
    attempts = member.ledger.attempts()
    if state is State.RUNNING and attempts:
        os.kill(int(attempts[-1].where["pid"]), signal.SIGTERM)


def _retry(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    workload, config = workload_of(run)
    plan = workload.plan(config, run.parent)
    backend = arguments.backend or _last_backend(run)
    launcher = Launcher(plan, backend)
    launcher.lay_out()
    if backend == "local":
        from jobs.commands.progress import watching

        with watching(run, quiet=arguments.json) as watch:
            launcher.run(watch)
        return OK
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
