"""The commands of a fake that runs what it is sent: what they do to its elements, and say of them.

An element of an array is a record; the process that runs it (:mod:`support.fake_slurm.runner`)
obeys the ``order`` in it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .state import State

LIVE = ("RUNNING", "COMPLETING")

_CALL = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from support.fake_slurm.runner import carry; carry(*sys.argv[1:])"
)


def accept(state: State, job: dict[str, Any], given: dict[str, str]) -> None:
    """Take an array into the queue, with a process for each element."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    (state.directory / f"{job['id']}.json").write_text(json.dumps(kept))
    (state.directory / f"{job['id']}.sh").write_text(job["text"])
    for element in job["elements"]:
        name = f"{job['id']}_{element}"
        state["elements"][name] = {
            "name": name,
            "job": job["id"],
            "element": element,
            "number": str(9000 + len(state["elements"])),
            "state": "PENDING",
            "reason": "None",
            "restarts": 0,
            "requeues": "requeue" in given,
            "limit": float(given.get("time", 60)) * state["minute"],
            "delay": _delay(given.get("signal", "")) * state["minute"] / 150.0,
            "memory": _mebibytes(given.get("mem", "100M")),
            "cores": given.get("cpus-per-task", "1"),
            "output": given.get("output", "/dev/null"),
            "excluded": given.get("exclude", "").split(","),
            "dependency": job["dependency"],
            "invalid_dependency_kills": given.get("kill-on-invalid-dep") == "yes",
            "throttle": int(job["throttle"] or 10**6),
            "begin": 0.0,
            "end": None,
            "node": "",
            "order": None,
            "signal": None,
            "back": False,
            "known": True,
            "step_code": "0:0",
            "runs": [],
        }
        start_runner(state.directory, name)


def start_runner(directory: Path, name: str) -> None:
    """Start the process that carries an element; it outlives the command."""
    tests = str(Path(__file__).parent.parent.parent)
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CALL, tests, str(directory), name],
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(directory / "runner.log").open("a"),
        start_new_session=True,
    )


def _delay(signal: str) -> float:
    return float(signal.partition("@")[2] or 0)


def _mebibytes(text: str) -> int:
    units = {"M": 1.0, "G": 1024.0}
    return round(float(text.rstrip("MGB")) * units.get(text.rstrip("B")[-1], 1.0))


def _found(state: State, names: str) -> list[dict[str, Any]]:
    wanted = names.split(",")
    return [
        e
        for e in state["elements"].values()
        if e["known"] and (e["name"] in wanted or e["job"] in wanted or e["number"] in wanted)
    ]


def _stamp(seconds: float | None) -> str:
    if seconds is None:
        return "Unknown"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def _fail(said: str) -> int:
    print(f"slurm_load_jobs error: {said}", file=sys.stderr)
    return 1


def squeue(state: State, arguments: list[str]) -> int:
    options = dict(a.removeprefix("--").partition("=")[::2] for a in arguments)
    elements = _found(state, options["jobs"]) if "jobs" in options else list(_known(state))
    if "jobs" in options and not elements:
        return _fail("Invalid job id specified")
    comments = {job["id"]: job["comment"] for job in state["jobs"]}
    for e in elements:
        if "Format" in options:
            row = (e["state"], e["reason"], _stamp(e["end"]), _preempted(e), str(e["restarts"]))
            print("".join(f"{value:<60}" for value in row))
            continue
        fields = {"%F": e["job"], "%k": comments[e["job"]], "%T": e["state"], "%i": e["name"]}
        print("|".join(fields[name] for name in options["format"].split("|")))
    return 0


def _known(state: State) -> list[dict[str, Any]]:
    return [e for e in state["elements"].values() if e["known"]]


def _preempted(element: dict[str, Any]) -> str:
    return _stamp(time.time()) if element["order"] == "preempt" else "None"


def scontrol(state: State, arguments: list[str]) -> int:
    elements = _found(state, arguments[1 if arguments[0] == "requeue" else -1])
    if arguments[0] == "update":
        values = dict(argument.split("=", 1) for argument in arguments[1:])
        elements = _found(state, values["JobId"])
    if not elements:
        return _fail("Invalid job id specified")
    (e,) = elements
    if arguments[0] == "show":
        print(
            f"JobId={e['number']} ArrayJobId={e['job']} ArrayTaskId={e['element']} JobName=a job "
            f"UserId=ada(1000) JobState={e['state']} Reason={e['reason']} "
            f"Requeue={int(e['requeues'])} Restarts={e['restarts']} "
            f"DerivedExitCode={e['step_code']} EndTime={_stamp(e['end'])} "
            f"PreemptTime={_preempted(e)} NodeList={e['node']}"
        )
    elif arguments[0] == "update":
        e["memory"] = int(values["MinMemoryNode"])
    elif e["state"] == "PENDING":
        return _fail("Job is pending execution")
    else:
        _requeue(state, e)
    return 0


def _requeue(state: State, element: dict[str, Any]) -> None:
    element["restarts"] += 1
    if element["state"] in LIVE:
        element.update(order=element["order"] or "requeue", back=True, state="COMPLETING")
        return
    element["runs"][-1][0] = "REQUEUED"
    element.update(state="PENDING", end=None)
    start_runner(state.directory, element["name"])


def scancel(state: State, arguments: list[str]) -> int:
    signals = [a.removeprefix("--signal=") for a in arguments if a.startswith("--signal=")]
    for e in _found(state, ",".join(arguments)):
        if signals:
            e["signal"] = signals[-1]
        elif e["state"] == "PENDING":
            e.update(state="CANCELLED", end=time.time())
            e["runs"].append(["CANCELLED", "", time.time()])
        elif e["state"] in LIVE:
            e.update(order="cancel", back=False)
    return 0


def sacct(state: State, arguments: list[str]) -> int:
    options = dict(a.removeprefix("--").partition("=")[::2] for a in arguments)
    if not state["accounting"]:
        print("Slurm accounting storage is disabled", file=sys.stderr)
        return 1
    for e in state["elements"].values():
        if e["name"] not in options.get("jobs", "").split(","):
            continue
        heard = [run for run in e["runs"] if run[2] + state["lag"] <= time.time()]
        runs = heard if "duplicates" in options else heard[-1:]
        for job, step, _ in runs:
            rows = [(e["name"], job), *([(f"{e['name']}.0", step)] if step else [])]
            for name, said in rows:
                fields = {"JobID": name, "State": said, "MaxRSS": ""}
                print("|".join(fields[field] for field in options["format"].split(",")))
    return 0
