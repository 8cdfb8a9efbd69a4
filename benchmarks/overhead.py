"""What the toolkit costs: to submit an array, a step, and to look at a run.

    python -m benchmarks.overhead                    # sbatch and squeue replaced by a few lines
    python -m benchmarks.overhead --slurmbox         # submission with a real Slurm of its own

Submission is compared with bare submitit's and the step loop with a bare ``while`` loop, in turns,
so that a change of the machine's load is unfair to neither. ``yaoki status`` is a whole command:
the start of Python and its squeue are part of the CPU time, the compilation of modules is not.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
import torch

from cluster import RobustExecutor
from cluster.attempt import Attempt
from cluster.calls import Call
from cluster.cause import Cause
from cluster.records.ledger import here
from cluster.records.member import Member
from cluster.scheduler import slurm
from cluster.slurmbox import SlurmBox
from cluster.stopping.signals import StopFlag

ROOT = Path(__file__).resolve().parent.parent

#: Commands that answer at once, so that what is measured is the toolkits' own work.
STAND_INS = {
    "sbatch": 'case "$*" in *--parsable*) echo 17;; *) echo Submitted batch job 17;; esac',
    "srun": ":",
    "scontrol": "echo 'MaxArraySize = 1001'",
    "squeue": 'echo . >> "$(dirname "$0")/asked"; cat "$(dirname "$0")/queue"',
}


@contextlib.contextmanager
def stand_ins() -> Iterator[Path]:
    """A directory of stand-ins for Slurm's commands, at the head of PATH."""
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        for name, body in STAND_INS.items():
            (Path(folder) / name).write_text(f"#!/bin/sh\n{body}\n")
            (Path(folder) / name).chmod(0o755)
        os.environ["PATH"] = f"{folder}:{before}"
        try:
            yield Path(folder)
        finally:
            os.environ["PATH"] = before


@contextlib.contextmanager
def real_slurm() -> Iterator[None]:
    """A Slurm of its own, which takes the jobs and holds them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # its database runs as another user
        box, before = SlurmBox(Path(folder)), dict(os.environ)
        box.up()
        os.environ.update(box.environment)
        try:
            yield
        finally:
            box.down(purge=True)
            os.environ.clear()
            os.environ.update(before)


def member(number: int) -> int:
    """What the members that nobody runs would do."""
    return number


def submit_yaoki(folder: Path, members: int) -> str:
    executor = RobustExecutor(folder, "slurm")
    executor.update_parameters(timeout_min=10, slurm_additional_parameters={"hold": True})
    return executor.map_array(member, range(members))[0].job_id


def submit_submitit(folder: Path, members: int) -> str:
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(time=10, additional_parameters={"hold": True})
    return str(executor.map_array(member, range(members))[0].job_id)


@dataclass
class Times:
    """Seconds on the clock and of CPU, children's included, a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def of(self, submit: Callable[[Path, int], str], folder: Path, members: int) -> str:
        """Submit, add what it took, and return a job id."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        job_id = submit(folder, members)
        self.cpu.append(_cpu_seconds() - cpu)
        self.wall.append(time.perf_counter() - wall)
        return job_id


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def report_submission(options: argparse.Namespace, folder: Path) -> None:
    """Submit the same array with both, in turns."""
    ways = {"submitit": submit_submitit, "yaoki": submit_yaoki}
    times = {name: Times() for name in ways}
    for number in range(options.rounds + 1):  # the first warms up
        for name, submit in ways.items():
            spent = times[name] if number else Times()
            job_id = spent.of(submit, folder / f"{name}-{number}", options.members)
            if options.slurmbox:
                slurm.cancel([job_id.split("_")[0]])
    print(f"submit {options.members} members, median of {options.rounds} rounds")
    print(f"{'':12}{'wall ms':>10}{'CPU ms':>10}")
    for name, spent in times.items():
        wall, cpu = statistics.median(spent.wall), statistics.median(spent.cpu)
        print(f"{name:12}{1e3 * wall:10.1f}{1e3 * cpu:10.1f}")
    ratios = [
        statistics.median(getattr(times["yaoki"], kind))
        / statistics.median(getattr(times["submitit"], kind))
        for kind in ("wall", "cpu")
    ]
    print(f"{'ratio':12}{ratios[0]:10.3f}{ratios[1]:10.3f}   goal: at most 1.1\n")


@dataclass
class Work:
    """Products of matrices, as many as make a step as long as is asked for."""

    seconds: float
    steps_done: int = 0
    steps_total: int = sys.maxsize
    products: int = 0

    def __post_init__(self) -> None:
        self.x, self.weight = torch.randn(64, 96), torch.randn(96, 96) / 10
        if self.seconds == 0:
            return
        self.products = 100
        self.step()  # warms up
        begun = time.thread_time()
        for _ in range(10):
            self.step()
        product = (time.thread_time() - begun) / 1000
        self.products, self.steps_done = max(1, round(self.seconds / product)), 0

    def step(self) -> None:
        for _ in range(self.products):
            self.x = torch.tanh(self.x @ self.weight)
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {"x": self.x, "steps_done": self.steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.x, self.steps_done = state["x"], state["steps_done"]


def seconds_a_step(options: argparse.Namespace, work: Work, folder: Path) -> tuple[float, float]:
    """CPU seconds a step in a bare loop, and how much more ``attempt.steps`` takes.

    The loops take turns on the same work, some milliseconds each; what is told is the median of
    the differences between neighbors, as the machine's own speed changes by more than that.
    """
    member = Member(folder, "loop", 0)
    member.directory.mkdir(parents=True, exist_ok=True)
    attempt = Attempt(member, 1, StopFlag(os.getpid()), checkpoint_seconds=1e9)
    block = max(1, round(0.01 / max(work.seconds, 1e-5)))
    steps = attempt.steps(work)
    times: dict[str, list[float]] = {"bare": [], "robust": []}
    for number in range(options.blocks):
        # Whoever is second in one turn is first in the next.
        for way in ("bare", "robust") if number % 2 else ("robust", "bare"):
            begun, end = time.thread_time(), work.steps_done + block
            if way == "bare":
                while work.steps_done < end:
                    work.step()
            else:
                for _ in itertools.islice(steps, block):
                    work.step()
            times[way].append((time.thread_time() - begun) / block)
    more = [robust - bare for bare, robust in zip(*times.values(), strict=True)]
    return statistics.median(times["bare"]), statistics.median(more)


def report_steps(options: argparse.Namespace, folder: Path) -> None:
    """Compare the loops on steps that do nothing, and on real ones."""
    print(f"the step loop, {options.blocks} blocks of each in turns, CPU time")
    print(f"{'step':12}{'bare us':>10}{'more us':>10}{'ratio':>10}")
    for name, seconds in (("nothing", 0.0), ("1 ms", 1e-3), ("10 ms", 1e-2)):
        bare, more = seconds_a_step(options, Work(seconds), folder / name)
        ratio = f"{1 + more / bare:10.4f}" if seconds else f"{'':10}"
        print(f"{name:12}{1e6 * bare:10.1f}{1e6 * more:10.1f}{ratio}")
    print(f"{'':32}   goal: at most 1.01\n")


def lay_out_run(run: Path, members: int, queue: Path) -> None:
    """A run with members in every state, and what squeue says of them."""
    executor = RobustExecutor(run, "slurm", stage="train")
    executor.update_parameters(timeout_min=10)
    executor.lay_out([Call("cluster.records.files:fsync_directory")] * members)
    executor.send(range(members))
    (run / "plan.yaml").write_text("job: none\n")
    rows = []
    for number, member in enumerate(executor.stage):
        ended = (Cause.PREEMPTION, Cause.TIMEOUT, Cause.FINISHED)[: number % 4]
        for cause in ended:
            attempt = member.ledger.start(here())
            member.ledger.end(attempt, cause, step=100 * attempt, signal=12)
        running = number % 4 == 2
        if running:
            member.ledger.start(here())
        if ended:
            member.progress_file.write_text(json.dumps({"step": 250, "of": 1000, "attempt": 1}))
        state = "COMPLETED" if number % 4 == 3 else "RUNNING" if running else "PENDING"
        rows.append(f"17_{number}|{state}\n")
    queue.write_text("".join(rows))


def cpu_of_command(command: list[str]) -> float:
    """CPU seconds of a command and of all that it waited for."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime


def report_status(options: argparse.Namespace, folder: Path) -> None:
    """Time ``yaoki status`` as a command, off a terminal."""
    with stand_ins() as commands:
        lay_out_run(folder / "run", options.members, commands / "queue")
        ways: dict[str, list[str]] = {
            "python alone": ["-c", "pass"],
            "status": ["-m", "jobs.cli", "status", str(folder / "run")],
            "status --json": ["-m", "jobs.cli", "status", str(folder / "run"), "--json"],
        }
        asked = commands / "asked"
        print(f"yaoki status of {options.members} members, median of {options.rounds} rounds")
        print(f"{'':16}{'CPU ms':>8}{'squeue':>8}")
        spent: dict[str, list[float]] = {name: [] for name in ways}
        calls: dict[str, int] = {}
        # Modules are compiled once, by the first call, which does not count.
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        cpu_of_command([sys.executable, *ways["status"]])
        for _ in range(options.rounds):
            for name, arguments in ways.items():
                asked.write_text("")
                spent[name].append(cpu_of_command([sys.executable, *arguments]))
                calls[name] = len(asked.read_text().splitlines())
        for name, seconds in spent.items():
            print(f"{name:16}{1e3 * statistics.median(seconds):8.0f}{calls[name]:8}")
        print(f"{'':16}{'':16}   goal: at most 250 ms and 1 call")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=11, help="of submission and of status")
    parser.add_argument("--blocks", type=int, default=500, help="of steps, 10 ms each")
    parser.add_argument("--slurmbox", action="store_true", help="submit to a Slurm of its own")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("parts", nargs="*", help="of submit, steps, status (default: all)")
    options = parser.parse_args()
    parts = options.parts or ["submit", "steps", "status"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if "submit" in parts:
            with real_slurm() if options.slurmbox else stand_ins():
                report_submission(options, folder)
        if "steps" in parts:
            report_steps(options, folder / "steps")
        if "status" in parts:
            report_status(options, folder / "status")


if __name__ == "__main__":
    main()
