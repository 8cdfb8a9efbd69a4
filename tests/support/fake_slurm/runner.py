"""The process that carries one element of an array: from the queue to its end, and back again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .executing import LIVE
from .state import State

_NODES = ("n0", "n1", "n2", "n3")
_POLL = 0.04
_FINAL = {"cancel": "CANCELLED", "limit": "TIMEOUT", "node": "NODE_FAIL"}
_ROWS = {**_FINAL, "preempt": "PREEMPTED", "requeue": "REQUEUED"}


def carry(directory: str, name: str) -> None:
    """Run an element as often as it comes to be started, until it has ended for good."""
    place = Path(directory)
    while True:
        with State(place) as state:
            element = state["elements"][name]
            if state["closed"] or element["state"] != "PENDING":
                return
            if _may_start(state, element):
                _begin(state, element)
            running = element["state"] == "RUNNING"
            started = dict(element)
        if running:
            _run(place, started)
        time.sleep(_POLL)


def _may_start(state: State, element: dict[str, Any]) -> bool:
    waits = [_standing(state, element, *part) for part in _dependencies(element)]
    if "never" in waits:
        element["reason"] = "DependencyNeverSatisfied"
        if element["invalid_dependency_kills"]:
            element.update(state="CANCELLED", end=time.time())
        return False
    same = [e for e in state["elements"].values() if e["job"] == element["job"]]
    running = sum(e["state"] in LIVE for e in same)
    free = _free_nodes(state, element)
    due = time.time() >= element["begin"]
    return "wait" not in waits and running < element["throttle"] and bool(free) and due


def _free_nodes(state: State, element: dict[str, Any]) -> list[str]:
    return [n for n in _NODES if n not in state["down"] and n not in element["excluded"]]


def _dependencies(element: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for part in filter(None, element["dependency"].split(",")):
        kind, *jobs = part.split(":")
        yield from ((kind, job.split("_")[0]) for job in jobs)


def _standing(state: State, element: dict[str, Any], kind: str, job: str) -> str:
    """Whether what an element waits for has come, is to ``wait`` for, or can ``never`` come."""
    others = [e for e in state["elements"].values() if e["job"] == job]
    if kind == "aftercorr":
        others = [e for e in others if e["element"] == element["element"]]
    if kind != "afterany" and any(
        e["state"] not in ("PENDING", *LIVE, "COMPLETED") for e in others
    ):
        return "never"
    return "wait" if any(e["state"] in ("PENDING", *LIVE) for e in others) else "come"


def _begin(state: State, element: dict[str, Any]) -> None:
    now = time.time()
    node = _free_nodes(state, element)[0]
    element.update(state="RUNNING", reason="None", node=node, end=now + element["limit"])


def _run(place: Path, element: dict[str, Any]) -> None:
    """One run: the batch script in a session of its own, and all that Slurm does to it."""
    log = element["output"].replace("%%", "%").replace("%A", element["job"])
    with Path(log.replace("%a", str(element["element"]))).open("ab") as output:
        batch = subprocess.Popen(
            ["/bin/bash", str(place / f"{element['job']}.sh")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(place, element),
            start_new_session=True,
        )
    watch = _Watch(batch)
    while True:
        code = batch.poll()
        with State(place) as state:
            if state["closed"]:
                watch.send(signal.SIGKILL)
                batch.wait()
                return
            if watch.is_over(state, state["elements"][element["name"]], code):
                return
        time.sleep(_POLL)


def _environment(place: Path, element: dict[str, Any]) -> dict[str, str]:
    ids = {
        "JOB_ID": element["number"],
        "ARRAY_JOB_ID": element["job"],
        "ARRAY_TASK_ID": str(element["element"]),
        "JOB_NODELIST": element["node"],
        "JOB_PARTITION": "gpu",
        "CPUS_PER_TASK": element["cores"],
        "CPUS_ON_NODE": element["cores"],
        "MEM_PER_NODE": str(element["memory"]),
    }
    if element["restarts"]:
        ids["RESTART_COUNT"] = str(element["restarts"])
    kept: dict[str, str] = json.loads((place / f"{element['job']}.json").read_text())
    return kept | {f"SLURM_{name}": value for name, value in ids.items()}


class _Watch:
    """What Slurm does to the processes of one run."""

    def __init__(self, batch: "subprocess.Popen[bytes]") -> None:
        self.batch = batch
        self.warned = False
        self.kill_at: float | None = None

    def send(self, number: int, but_the_batch: bool = False) -> None:
        for pid in _session(self.batch.pid):
            if not (but_the_batch and pid == self.batch.pid):
                _kill(pid, number)

    def is_over(self, state: State, element: dict[str, Any], code: int | None) -> bool:
        """Look once; whether nothing of the run is left."""
        now = time.time()
        if code is not None and code < 0 and element["order"] is None:
            element.update(order="batch", reason="JobLaunchFailure")
        if element["state"] == "RUNNING" and element["order"] is None:
            self._mind_the_limit(element, now)
        if element["signal"]:
            self.send(signal.Signals[f"SIG{element['signal']}"], but_the_batch=True)
            element["signal"] = None
        if element["order"] is not None and self.kill_at is None:
            self._order(state, element, now)
        if self.kill_at is not None and now >= self.kill_at:
            self.send(signal.SIGKILL)
        if code is None or (element["order"] and any(_session(self.batch.pid))):
            return False
        self.send(signal.SIGKILL)
        _end(element, code, now)
        return True

    def _mind_the_limit(self, element: dict[str, Any], now: float) -> None:
        if now >= element["end"]:
            element.update(order="limit", reason="TimeLimit")
        elif element["delay"] and now >= element["end"] - element["delay"] and not self.warned:
            self.warned = True
            self.send(signal.SIGUSR2, but_the_batch=True)

    def _order(self, state: State, element: dict[str, Any], now: float) -> None:
        element.update(state="COMPLETING", end=now)
        # A lost node sends no signal: everything on it is gone.
        self.kill_at = now if element["order"] == "node" else now + state["kill_wait"]
        if element["order"] != "node":
            self.send(signal.SIGTERM)


def _end(element: dict[str, Any], code: int, now: float) -> None:
    own = "COMPLETED" if code == 0 else "FAILED"
    order = element["order"]
    element["runs"].append([_ROWS.get(order, own), "CANCELLED" if code else "COMPLETED", now])
    final = "PENDING" if element["back"] else _FINAL.get(order, own)
    if code == 137:
        element["step_code"] = "0:9"
    element.update(state=final, order=None, back=False, end=now, begin=now + 0.2)
    if final == "FAILED" and element["reason"] == "None":
        element["reason"] = "NonZeroExitCode"


def _session(leader: int) -> list[int]:
    """Live processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == leader:
            found.append(int(entry.name))
    return found


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        print(f"{pid} was gone before signal {number}", file=sys.stderr)
