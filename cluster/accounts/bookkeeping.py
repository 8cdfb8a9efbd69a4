"""What a run was given and used, collected from its ledgers and from Slurm's accounting.

The run directory alone is enough; what only Slurm knows is then missing.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from cluster.accounts.timeline import Timeline
from cluster.accounts.usage import AttemptUsage, MemberUsage, RunUsage, StageUsage
from cluster.cause import Cause
from cluster.memory.hostmemory import given_memory
from cluster.records.history import AttemptRecord
from cluster.records.member import Member
from cluster.scheduler import sacct, slurm
from cluster.scheduler.sacct import JobRun
from cluster.stage import Stage, load_stages

_Event = Mapping[str, Any]


def run_usage(run: Path) -> RunUsage:
    """Collect what every member of a run was given and used, with one query to ``sacct``."""
    stages = load_stages(run)
    readings = [pair for stage in stages for pair in stage.readings()]
    stories = {m: _Story(m, ledger.attempts(), ledger.events()) for m, ledger in readings}
    jobs = {job.split("_")[0] for story in stories.values() for job in story.jobs if job}
    problem, runs = "", dict[str, list[JobRun]]()
    try:
        runs = sacct.job_runs(jobs)
    except slurm.SlurmError as error:
        problem = str(error)
    found = [StageUsage(s, [_member_usage(s, m, stories[m], runs) for m in s]) for s in stages]
    return RunUsage(run, found, problem)


def _member_usage(
    stage: Stage, member: Member, story: "_Story", runs: Mapping[str, Sequence[JobRun]]
) -> MemberUsage:
    rows = [
        sacct.run_at(runs.get(job or "", ()), record.started)
        for record, job in zip(story.records, story.jobs, strict=True)
    ]
    account = _Account(stage, story, rows)
    attempts = [account.usage(n) for n in range(len(rows))]
    return MemberUsage(stage.name, member.index, attempts, story.done)


@dataclass(frozen=True)
class _Story:
    """What a member's directory tells."""

    member: Member
    records: Sequence[AttemptRecord]
    events: Sequence[Mapping[str, Any]]

    @property
    def jobs(self) -> list[str | None]:
        """The job of each attempt."""
        return [slurm.job_name(record.where.get("slurm", {})) for record in self.records]

    @property
    def done(self) -> float | None:
        """The share of the steps that is done."""
        step, of = self.progress.get("step"), self.progress.get("of")
        return float(step) / float(of) if step is not None and of else None

    @property
    def progress(self) -> dict[str, Any]:
        """The last progress that was reported, if any."""
        try:
            progress = json.loads(self.member.progress_file.read_text())
        except (OSError, ValueError):
            return {}
        return progress if isinstance(progress, dict) else {}

    def notes(self, number: int, kind: str) -> list[Mapping[str, Any]]:
        """Events of one kind that an attempt has noted."""
        return [e for e in self.events if e["event"] == kind and e.get("attempt") == number]

    def queued_before(self, moment: float) -> float | None:
        """When the member was last submitted before a moment."""
        times = [e["time"] for e in self.events if e["event"] == "queued" and e["time"] <= moment]
        return max(times, default=None)

    def last_sign(self, record: AttemptRecord) -> float:
        """When an attempt was last heard of."""
        signs = [e["time"] for e in self.events if e.get("attempt") == record.number]
        files = [self.member.logs / f"{record.number:04d}.log"]
        if self.progress.get("attempt") == record.number:
            files.append(self.member.progress_file)
        # The end of an attempt that was lost is noted when the next one starts.
        own = [sign for sign in signs if record.ended is None or sign < record.ended]
        found: float = max([record.started, *own, *(_changed(file) for file in files)])
        later = [other.started for other in self.records if other.number > record.number]
        return min([found, *later])

    def saved_at(self) -> float:
        """When the checkpoint was written that an attempt would go on from now."""
        return max((_changed(file) for file in self.member.checkpoints.glob("*.pt")), default=-inf)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return -inf


@dataclass(frozen=True)
class _Span:
    """When an attempt held its resources, as far as anyone knows."""

    allocated: float
    left: float
    released: float
    estimated: bool = False


@dataclass(frozen=True)
class _Account:
    """A member's attempts beside what Slurm knows of the runs of its jobs."""

    stage: Stage
    story: _Story
    rows: Sequence[JobRun | None]

    def usage(self, n: int) -> AttemptUsage:
        """What the attempt at a place in the ledger was given and used."""
        record, row = self.story.records[n], self.rows[n]
        where = record.where.get("slurm", {})
        told = (self.story.notes(record.number, "usage") or [{}])[-1]
        peaks = [peak for peak in (row.peak if row else None, told.get("peak_mib")) if peak]
        sizes = [e["microbatch"] for e in self.story.notes(record.number, "microbatch")]
        gpus = int(where.get("gpus_on_node", 0)) if where else None
        return AttemptUsage(
            number=record.number,
            cause=record.cause,
            parts=self._timeline(n).parts(),
            started=self._span(n).allocated,
            estimated=self._span(n).estimated,
            waited=self._waited(n),
            cpus=row.cpus if row else int(where.get("cpus_on_node", self.stage.cpus)),
            gpus=row.gpus if row else gpus,
            limit=row.limit if row else None,
            memory=given_memory(where),
            peak=max(peaks, default=None),
            sampled=row is not None and row.peak is not None,
            cpu_seconds=(row.cpu_seconds if row else None) or told.get("cpu_seconds"),
            microbatch=(sizes[0], sizes[-1]) if sizes else None,
            overdue=next(iter(self.story.notes(record.number, "overdue")), None),
        )

    def _span(self, n: int) -> _Span:
        record, row = self.story.records[n], self.rows[n]
        allocated = min(record.started, row.started) if row else record.started
        # What the next attempt noted about a lost one carries the wrong time.
        lost = "slurm_state" in (record.detail or {})
        if record.ended is not None and not lost:
            released = row.ended if row and row.ended else record.ended
            return _Span(allocated, record.ended, max(record.ended, released))
        if row is not None:
            # What of it came after the last step, nobody knows.
            ended = time.time() if row.ended is None else row.ended
            return _Span(allocated, ended, ended)
        last = self.story.last_sign(record)
        return _Span(allocated, last, last, estimated=True)

    def _timeline(self, n: int) -> Timeline:
        record, span = self.story.records[n], self._span(n)
        told = (self.story.notes(record.number, "usage") or [{}])[-1]
        kept_until, saved_all = self._kept(n)
        return Timeline(
            allocated=span.allocated,
            began=self._began(n),
            left=span.left,
            released=span.released,
            kept_until=kept_until,
            saving=told.get("saving_seconds", 0.0),
            saved_all=saved_all,
        )

    def _began(self, n: int) -> float | None:
        """When the first step began. Without a loop of steps the function itself is the work."""
        record = self.story.records[n]
        begun = self.story.notes(record.number, "steps")
        if begun:
            return float(begun[0]["time"])
        has_loop = any(event["event"] == "steps" for event in self.story.events)
        return None if has_loop and record.cause is not Cause.FINISHED else record.started

    def _kept(self, n: int) -> tuple[float, bool]:
        """Until when the work of an attempt is part of the final history, and if that is all."""
        record = self.story.records[n]
        detail, finished = record.detail or {}, record.cause is Cause.FINISHED
        later = [r for r in self.story.records[n + 1 :] if self._took_steps(r)]
        if not later:
            if record.cause is None or finished or "signal" in detail:
                return inf, True
            return self.story.saved_at(), False
        resumed = [(self.story.notes(r.number, "steps") or [{}])[0] for r in later]
        moments = [-inf if note.get("saved") is None else float(note["saved"]) for note in resumed]
        step = detail.get("step")
        return min(moments), step is not None and all(step <= r.get("step", -1) for r in resumed)

    def _took_steps(self, record: AttemptRecord) -> bool:
        # Whoever never came as far says nothing about what was still there.
        return bool(self.story.notes(record.number, "steps")) or record.cause is Cause.FINISHED

    def _waited(self, n: int) -> float | None:
        record, row = self.story.records[n], self.rows[n]
        queued = self.story.queued_before(record.started)
        before = self._span(n - 1).released if n else None
        if before is not None and (queued is None or queued <= self.story.records[n - 1].started):
            since: float | None = before
        elif row is not None and row.eligible is not None:
            since = row.eligible
        else:  # a later stage waits for the one before it: that is no queue
            since = queued if self.stage.order == 0 else None
        return None if since is None else max(0.0, self._span(n).allocated - since)
