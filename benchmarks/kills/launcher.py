"""A launcher that forks: an attempt costs milliseconds where starting Python takes seconds."""

import os
import signal
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NoReturn

import numpy as np

from benchmarks.kills import work
from benchmarks.kills.blows import Aim, Blow, deal, doom, set_clock
from cluster.aftermath import settle
from cluster.calls import Call, save_calls
from cluster.cause import Budgets
from cluster.execution import execute
from cluster.records.member import Member
from cluster.stage import Stage
from cluster.stopping import signals
from pipelines.ensemble import read_layout, verify

_DAY = 86400.0


def lay_out(run: Path, members: int) -> Stage:
    """Plan the ensemble and the stage that fills it; every step is saved."""
    work.plan(run, members)
    budgets = Budgets(killed=10**6)
    stage = Stage(run, "walk", members=members, budgets=budgets, checkpoint_seconds=0.0)
    stage.save()
    save_calls(stage.directory, 0, [Call("benchmarks.kills.work:walk")] * members)
    stage.submissions.queued(range(members))
    return stage


@dataclass
class _Child:
    """An attempt that runs."""

    member: Member
    begun: float
    blow: Blow | None
    before: set[Path]
    due: float = float("inf")


@dataclass
class Launcher:
    """Runs all members of a stage, a few at a time, and kills some of the attempts.

    Args:
        stage: As laid out.
        seed: Of everything that is drawn.
        kills: How many attempts to kill.
        span: Seconds that an attempt takes; kills at any time come within it.
        at_once: Attempts at a time.
    """

    stage: Stage
    seed: int = 0
    kills: int = 0
    span: float = 0.0
    at_once: int = 4
    met: Counter[str] = field(default_factory=Counter, init=False)
    damaged: list[str] = field(default_factory=list, init=False)
    spans: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._cards = deal(self._rng, self.stage.members, self.kills)
        self._running: dict[int, _Child] = {}

    def run(self) -> float:
        """Run until every member has finished; returns the median seconds of an attempt."""
        waiting = deque(self.stage)
        while waiting or self._running:
            while waiting and len(self._running) < self.at_once:
                self._start(waiting.popleft())
            for pid in self._strike_and_reap():
                child = self._running.pop(pid)
                if not child.member.ledger.finished():
                    waiting.insert(int(self._rng.integers(len(waiting) + 1)), child.member)
        return median(self.spans)

    def _start(self, member: Member) -> None:
        blow = self._cards.pop(0)
        skew = self._rng.uniform(-_DAY, _DAY) if self.kills else 0.0
        child = _Child(member, time.monotonic(), blow, self._temporary(member))
        if blow is not None and blow.aim is Aim.ANYWHERE:
            child.due = child.begun + blow.share * self.span
        pid = os.fork()
        if pid == 0:
            self._attempt(member, blow, skew)
        self._running[pid] = child

    def _attempt(self, member: Member, blow: Blow | None, skew: float) -> NoReturn:
        status = 1
        try:
            set_clock(skew)
            if blow is not None:
                doom(blow)
            status = execute(self.stage, member.index, signals.install(), redirect=True)
        finally:
            os._exit(status)  # whatever happens, a child never becomes a launcher

    def _strike_and_reap(self) -> list[int]:
        """Kill whoever is due, and return the process ids of those that have ended."""
        time.sleep(0.001)
        for pid, child in self._running.items():
            if time.monotonic() >= child.due:
                os.kill(pid, signal.SIGKILL)
        ended = []
        for pid, child in self._running.items():
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended.append(pid)
                self._note(child, os.waitstatus_to_exitcode(status))
        return ended

    def _note(self, child: _Child, status: int) -> None:
        killed = status == -signal.SIGKILL
        if not killed and status:
            raise RuntimeError(f"{child.member.name} failed; see {child.member.logs}")
        if killed:
            self.met[self._where(child)] += 1
            found = verify(work.ensemble_path(self.stage.run))
            self.damaged += [line for line in found.lines() if "damaged:" in line]
        else:
            self.spans.append(time.monotonic() - child.begun)
        if child.blow is None or child.blow.heard:
            settle(child.member, status)

    def _temporary(self, member: Member) -> set[Path]:
        path = work.ensemble_path(self.stage.run)
        shards = path.glob(f"*/.c.{member.index}.*.tmp")
        return {*shards, *path.parent.glob(f"commits/.{member.index:04d}.json.*.tmp")}

    def _where(self, child: _Child) -> str:
        """Where the kill met the attempt, read from what it left."""
        layout = read_layout(work.ensemble_path(self.stage.run))
        member = child.member
        if layout.commit(member.index).exists():
            return "after the commit had its name"
        left = {path.parent.name for path in self._temporary(member) - child.before}
        if left:
            return "in the write of the commit" if "commits" in left else "in the write of a shard"
        if any((layout.path / name).exists() for name in layout.shards(member.index)):
            return "after a shard had its name"
        steps = any(event["event"] == "steps" for event in member.ledger.events())
        return "in the steps" if steps else "before the first step"
