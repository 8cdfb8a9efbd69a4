"""Laws of any schedule of faults: it comes to an end, and every start is paid for once.

Worker, exit trap and login node are the real ones, in this process; the controller is a model.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.controller import Controller, Job

from cluster import Attempt, Budgets, Cause, Interrupted, Member, RobustJob, aftermath
from cluster.calls import Call
from cluster.execution import execute
from cluster.scheduler import slurm
from cluster.scheduler.patience import Patience
from cluster.stage import Stage, verdict
from cluster.stopping.signals import StopFlag
from cluster.watching import Watch

QUICK = Patience(tries=2, first=0.0)

#: A bound on the starts of a member: as many as all budgets together allow, the first, and one
#: more of each cause, which finds its budget used up.
BUDGETS = Budgets(
    timeout=2, preemption=2, node_failure=1, killed=2, device_oom=1, host_oom=1, error=1
)
MOST_STARTS = 1 + 7 + (2 + 2 + 1 + 2 + 1 + 1 + 1)

FAULTS = (
    *("finish", "error", "usr2", "term", "limit", "preempted", "cancelled", "killed", "unborn"),
    *("trap killed", "batch killed", "all killed", "stillborn", "node", "node for good"),
    "cancelled while it waits",
)


@dataclass(frozen=True)
class Weather:
    """What the commands of Slurm can do while one attempt runs, and after it."""

    node_has: tuple[str, ...] = ("scontrol", "squeue", "sacct", "sinfo")
    node_refuses: bool = False
    loses_answer: bool = False
    login_refuses: bool = False
    busy: int = 0
    accounting: bool = True
    forgets: bool = False

    @property
    def tells(self) -> bool:
        """Whether the login node can learn how a job ended."""
        return self.accounting or not self.forgets


weathers = st.builds(
    Weather,
    node_has=st.sampled_from([("scontrol", "squeue", "sacct", "sinfo"), ("squeue",), ()]),
    node_refuses=st.booleans(),
    loses_answer=st.booleans(),
    login_refuses=st.booleans(),
    busy=st.integers(0, 4),
    accounting=st.booleans(),
    forgets=st.booleans(),
)
schedules = st.lists(st.tuples(st.sampled_from(FAULTS), weathers), max_size=8)


class Killed(BaseException):
    """SIGKILL: nothing of the process runs any more."""


@dataclass
class World:
    """One member, what befalls it, and Slurm.

    Args:
        stage: Its stage.
        slurm: The controller.
    """

    stage: Stage
    slurm: Controller
    fault: str = ""
    at_work: int = 0
    cancelled: bool = False
    revived: int = 0

    @property
    def member(self) -> Member:
        return self.stage.member(0)

    def run(self, job: Job, fault: str, weather: Weather) -> None:
        """Let the job run once, and its fault come."""
        self.revived += self.cancelled
        self.slurm.start(job)
        self.slurm.node_has, self.slurm.refuses = weather.node_has, weather.node_refuses
        self.slurm.loses, self.slurm.accounting = weather.loses_answer, weather.accounting
        self.fault = fault
        self.slurm.on_node = True
        with _variables(job):
            status = self._work(job)
            if fault not in ("trap killed", "batch killed", "all killed", "stillborn"):
                self.slurm.busy = weather.busy if fault not in ("node", "node for good") else 0
                if status is not None:
                    aftermath.main([str(self.stage.run), self.stage.name, "0", str(status)])
        self.slurm.on_node, self.slurm.loses, self.slurm.busy = False, False, 0
        self.slurm.over(job, self._final_state(status))
        # Where Slurm has forgotten, and nobody could ask it in time, nobody can know.
        self.cancelled = self.cancelled or (fault == "cancelled" and weather.tells)
        if weather.forgets and job.state != "PENDING":
            job.known = False

    def _work(self, job: Job) -> int | None:
        """The exit status of srun, or None where no exit trap runs after it."""
        if self.fault in ("unborn", "stillborn"):
            job.step_code = "0:9"
            return 137 if self.fault == "unborn" else None
        stop = StopFlag(os.getpid())
        try:
            return execute(self.stage, 0, stop, redirect=False)
        except Killed:
            self.at_work -= 1
            job.step_code = "0:9"
            return 137 if self.fault == "killed" else None

    def act(self, attempt: Attempt) -> int:
        """What the member's function does."""
        assert self.at_work == 0, "two attempts at once"
        self.at_work += 1
        job = self.slurm.jobs[str(slurm.own_job_id())]
        self._befall(job)
        if self.fault in ("killed", "all killed", "node", "node for good"):
            raise Killed
        self.at_work -= 1
        if self.fault == "error":
            raise LookupError("of the work itself")
        if self.fault == "finish" or self.fault.endswith("waits"):
            return 7
        attempt.stop.set(signal.SIGUSR2 if self.fault == "usr2" else signal.SIGTERM)
        raise Interrupted

    def _befall(self, job: Job) -> None:
        match self.fault:
            case "limit":
                self.slurm.ends(job, "TimeLimit")
            case "preempted":
                self.slurm.ends(job, back=True)
            case "node":
                self.slurm.ends(job, "NodeDown", back=True)
            case "cancelled":
                self.slurm.ends(job)
            case "batch killed":
                self.slurm.ends(job, "JobLaunchFailure")

    def _final_state(self, status: int | None) -> str:
        special = {"cancelled": "CANCELLED", "limit": "TIMEOUT"}
        special |= {"node": "NODE_FAIL", "node for good": "NODE_FAIL"}
        return special.get(self.fault, "COMPLETED" if status == 0 else "FAILED")


@contextmanager
def _variables(job: Job) -> Iterator[None]:
    array, _, element = job.name.partition("_")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", array)
        patch.setenv("SLURM_ARRAY_JOB_ID", array)
        patch.setenv("SLURM_ARRAY_TASK_ID", element)
        if job.restarts:
            patch.setenv("SLURM_RESTART_COUNT", str(job.restarts))
        yield


_world: list[World] = []


def act(attempt: Attempt) -> int:
    return _world[-1].act(attempt)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aftermath, "PATIENCE", QUICK)
        patch.setattr(os, "fsync", lambda _: None)  # no power cut is tested here
        yield


def _new_world(run: Path, patch: pytest.MonkeyPatch) -> World:
    stage = Stage(run, "train", members=1, budgets=BUDGETS)
    stage.save()
    world = World(stage, Controller())
    _world[:] = [world]
    patch.setattr(slurm, "run", world.slurm.run)
    Call(act).save(world.member)
    script = run / "scripts" / "train-000000.sh"
    script.parent.mkdir()
    script.write_text("#!/bin/bash\n#SBATCH --array=0\n")
    world.member.ledger.queued()
    world.member.ledger.sent(world.slurm.sent().name, script.name)
    return world


def _live(world: World, faults: list[tuple[str, Weather]], last: tuple[str, Weather]) -> None:
    """Let Slurm start the member, and two login nodes look after it, until nothing happens."""
    watches = [Watch(world.stage.run, looks=2, apart=0.0, patience=QUICK) for _ in range(2)]
    plan = iter(faults)
    for _ in range(10 * MOST_STARTS):
        waiting = [job for job in world.slurm.jobs.values() if job.state == "PENDING"]
        assert len(waiting) <= 1, "two jobs for one member"
        fault, weather = next(plan, last) if waiting else ("", last[1])
        if waiting and fault == "cancelled while it waits":
            world.slurm.over(waiting[0], "CANCELLED")
            world.cancelled = weather.tells
            waiting[0].known = not weather.forgets
            world.slurm.accounting = weather.accounting
        elif waiting:
            world.run(waiting[0], fault, weather)
        before = len(world.slurm.accepted)
        world.slurm.refuses = weather.login_refuses
        for watch in (*watches, *watches, *watches):
            world.slurm.busy = 1 if weather.busy == 4 and watch is watches[0] else 0
            try:
                watch.look()
            except slurm.SlurmBusyError:
                assert watch is watches[0]
        if not waiting and len(world.slurm.accepted) == before:
            return
    pytest.fail("it goes on for ever")


@given(schedules, st.tuples(st.sampled_from(FAULTS), weathers))
@example(  # cancelled after Slurm had put it back by itself, and forgotten before anyone looked
    [
        ("node", Weather(accounting=False)),
        ("cancelled while it waits", Weather(forgets=True)),
    ],
    ("finish", Weather(accounting=False)),
)
@settings(max_examples=200, deadline=None)
def test_every_schedule_of_faults_ends_with_a_result_or_a_verdict(
    faults: list[tuple[str, Weather]], last: tuple[str, Weather]
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        world = _new_world(Path(directory), patch)
        _live(world, faults, last)
        ledger, attempts = world.member.ledger, world.member.ledger.attempts()
        job = RobustJob(world.stage, 0)
        assert job._has_ended()
        assert all(attempt.cause is not None for attempt in attempts)
        assert len(attempts) <= MOST_STARTS
        # Each start but the first was paid for by one requeue: one asked for, or one of Slurm's.
        assert sum(ledger.spent().values()) == max(0, len(attempts) - 1)
        assert len(attempts) <= 1 + len(world.slurm.accepted) + world.slurm.by_itself
        if ledger.finished():
            assert job.exception() is None
        elif ledger.wanted() and attempts[-1].cause is not Cause.CANCELLED:
            assert verdict(world.member, BUDGETS) or "retry budget" in str(attempts[-1].detail)
            assert "retry budget" in str(job.exception()) or attempts[-1].cause is Cause.ERROR
        else:
            # What Slurm forgot while it waited counts as cancelled.
            assert world.cancelled or not all(w.tells for _, w in [*faults, last])
        assert world.revived == 0
