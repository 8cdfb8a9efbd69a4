"""The array as the campaign of faults drives it: those of its members that are to be hit."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.faults.work import Terms
from benchmarks.variants.grid import config_of
from cluster import Member
from cluster.calls import Call
from cluster.executor import Backend
from cluster.status import OPEN, run_status
from cluster.watching import Watch
from jobs.launch import Launcher
from pipelines.plan import Plan

TRAIN = "train"


class VariantsArray:
    """The whole job up to its end; the campaign's n-th member is the n-th victim.

    Args:
        plan: Of the job.
        terms: Of the victims.
        victims: Members of the array.
        backend: Where it runs.
        name: Of its scenes.
    """

    def __init__(
        self,
        plan: Plan,
        terms: Terms,
        victims: Sequence[int],
        backend: Backend = "slurm",
        name: str = "variants",
    ) -> None:
        self.plan, self.terms, self.victims, self.name = plan, terms, victims, name
        # What is collected must not wait for those that somebody has to start again.
        self.launcher = Launcher(replace(plan, stages=plan.stages[:-1]), backend)
        self._watch = Watch(plan.directory)
        self._asking = threading.Lock()

    def member(self, victim: int) -> Member:
        """The member that a victim is."""
        return Member(self.plan.directory, TRAIN, self.victims[victim])

    def disk(self, member: int) -> Path:
        return self.member(member).checkpoints

    def lay_out(self, pace: float) -> None:
        """Write all members; the victims are to keep a pace, and to leave traces."""
        self.launcher.lay_out()
        for number in range(len(self.victims)):
            scene = self.terms.scene(self.name, number)
            call = Call("benchmarks.variants.work:train", (config_of(self.plan), scene, pace))
            call.save(self.member(number))

    def submit(self) -> None:
        self.lay_out(self.terms.pace)
        self.launcher.submit()

    def job(self, member: int) -> str:
        return self.member(member).ledger.last_job_id() or ""

    def done(self, member: int) -> bool:
        """Look after all members, as a program does that waits for results."""
        if self._asking.acquire(blocking=False):
            try:
                self._watch.look_now_and_then()
            finally:
                self._asking.release()
        return False

    def start_again(self, member: int) -> bool:
        """What ``yaoki retry`` does."""
        with self._asking:
            self.launcher.submit()
        return True

    def collect(self, deadline: float) -> None:
        """Wait for the members that nothing befalls, then run the last stage.

        Args:
            deadline: When to wait no longer, seconds since the epoch.
        """
        self._await(TRAIN, deadline)
        launcher = Launcher(self.plan, self.launcher.backend)
        launcher.lay_out()
        launcher.submit()
        self._await(self.plan.stages[-1].name, deadline)

    def _await(self, stage: str, deadline: float) -> None:
        while time.time() < deadline:
            self._watch.look_now_and_then()
            states = [m.state for m in run_status(self.plan.directory) if m.stage == stage]
            if all(state not in OPEN for state in states):
                return
            time.sleep(3.0)
