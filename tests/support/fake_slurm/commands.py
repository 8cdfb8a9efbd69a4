"""The commands of the fake, as its files on PATH call them."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import executing
from .state import State

#: How sbatch fails, and whether the job is in the queue all the same.
FAULTS = {
    "busy": ("Batch job submission failed: Socket timed out on send/recv operation", False),
    "down": ("Batch job submission failed: Unable to contact slurm controller (connect)", False),
    "full": ("Batch job submission failed: Resource temporarily unavailable", False),
    "lost": ("Batch job submission failed: Socket timed out on send/recv operation", True),
    "killed": ("", True),
    "interrupted": ("", True),
    "late": ("Batch job submission failed: Zero Bytes were transmitted or received", False),
    "refused": ("Batch job submission failed: Invalid partition name specified", False),
}


def _options(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH --")]
    words = (shlex.split(line)[1].removeprefix("--").partition("=") for line in lines)
    return {name: value for name, _, value in words}


def _elements(array: str) -> list[int]:
    spans = [part.split("-") for part in array.split("%")[0].split(",")]
    return [element for span in spans for element in range(int(span[0]), int(span[-1]) + 1)]


def _waiting(state: State) -> int:
    return sum(len(job["elements"]) for job in state["jobs"] if job["state"] == "PENDING")


def _sbatch(state: State, arguments: list[str]) -> int:
    fault = state["faults"].pop(0) if state["faults"] else None
    for earlier in state["jobs"]:
        # What arrives late does so just before the call that follows it.
        earlier["state"] = "PENDING" if earlier["state"] == "LATE" else earlier["state"]
    said, accepted = FAULTS[fault] if fault else ("", True)
    text = Path(arguments[-1]).read_text()
    given = _options(text)
    elements = _elements(given["array"])
    if max(elements) >= state["array_size"]:
        said, accepted = "Batch job submission failed: Invalid job array specification", False
    if _waiting(state) + len(elements) > state.get("submit_limit", 10**9):
        said, accepted = "Batch job submission failed: Job violates accounting/QOS policy", False
    comments = [a.removeprefix("--comment=") for a in arguments if a.startswith("--comment=")]
    job = {
        "id": str(100 + len(state["jobs"])),
        "state": "PENDING" if accepted else "LATE",
        "comment": (comments or [given.get("comment", "")])[-1],
        "elements": elements,
        "throttle": given["array"].partition("%")[2],
        "dependency": given.get("dependency", ""),
        "called": " ".join(["sbatch", *arguments]),
        "text": text,
    }
    if accepted or fault == "late":
        state["jobs"].append(job)
    if accepted and state["executes"]:
        executing.accept(state, job, given)
    if fault in ("killed", "interrupted"):
        state.__exit__()
        if fault == "interrupted":  # Ctrl-C while sbatch has not answered yet
            os.kill(os.getppid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGKILL)
    if said:
        print("sbatch: error: Slurm temporarily unable to accept job, sleeping", file=sys.stderr)
        print(f"sbatch: error: {said}", file=sys.stderr)
        return 1
    print(job["id"])
    return 0


def _squeue(state: State, arguments: list[str]) -> int:
    forms = [a.removeprefix("--format=") for a in arguments if a.startswith("--format=")]
    for job in state["jobs"]:
        shown = job["state"] == "PENDING" or "--states=all" in arguments
        if not shown or job["state"] in ("LATE", "FORGOTTEN"):
            continue
        for element in job["elements"] if "--array" in arguments else job["elements"][:1]:
            fields = {"%F": job["id"], "%k": job["comment"], "%T": job["state"]}
            fields["%i"] = f"{job['id']}_{element}"
            print("|".join(fields[name] for name in forms[-1].split("|")))
    waiting = [job for job in state["jobs"] if job["state"] == "PENDING"]
    if waiting and state.get("ends_when_asked"):
        waiting[0]["state"] = "COMPLETED"
    return 0


def _scontrol(state: State, arguments: list[str]) -> int:
    if arguments[:2] == ["show", "config"]:
        print(f"Configuration data\nClusterName   = fake\nMaxArraySize  = {state['array_size']}")
        print(f"SchedulerParameters     = {state.get('scheduler', '(null)')}")
        print(f"AccountingStorageEnforce = {'associations,limits' if state['books'] else 'none'}")
    if arguments[:2] == ["show", "partition"]:
        print(f"PartitionName=gpu Default=YES QoS={state['partition_qos']} MaxNodes=1")
    return 0


def _scancel(state: State, arguments: list[str]) -> int:
    for job in state["jobs"]:
        if job["id"] in arguments and job["state"] == "PENDING":
            job["state"] = "CANCELLED"
    return 0


def _sacctmgr(state: State, arguments: list[str]) -> int:
    entity = arguments[arguments.index("show") + 1]
    *where, form = arguments[arguments.index("show") + 2 :]
    if entity not in state["books"]:
        print(
            "sacctmgr: error: Problem talking to the database: Connection refused", file=sys.stderr
        )
        return 1
    for row in state["books"][entity]:
        # "name" selects by name, "user=" the rows of accounts.
        asked = dict(w.split("=") if "=" in w else ["name", w] for w in where)
        if all(row.get(key, "") == value for key, value in asked.items() if key != "cluster"):
            print("|".join(row.get(field, "") for field in form.removeprefix("format=").split(",")))
    return 0


def _sacct(state: State, arguments: list[str]) -> int:
    for job in state["jobs"]:
        for element in job["elements"] if job["state"] != "LATE" else []:
            print(f"{job['id']}_{element}|{job['called']}")
    return 0


def _sinfo(state: State, arguments: list[str]) -> int:
    print(1000)
    return 0


def main(directory: str, command: str, *arguments: str) -> int:
    """Do what a command is asked, and return its exit status."""
    with State(Path(directory)) as state:
        state["calls"].append(" ".join([command, *arguments]))
        there = executing if state["executes"] and _concerns_jobs(command, arguments) else None
        name = command if there else f"_{command}"
        status: int = getattr(there or sys.modules[__name__], name)(state, list(arguments))
    return status


def _concerns_jobs(command: str, arguments: Sequence[str]) -> bool:
    if command == "scontrol":
        return arguments[0] in ("requeue", "update") or arguments[:2] == ("show", "job")
    return command in ("squeue", "scancel", "sacct")
