"""Sending Weights & Biases what it lacks of ``metrics.jsonl``: every step once, however often.

What members left in ``offline-run-*`` may be torn by a kill and overlaps between attempts, so none
of it is sent. The log is compared with the server's history, and what is missing goes out as one
whole offline run with the identifier of the member, which W&B appends to what it has.
"""

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.records.files import append_line, locked, read_lines
from cluster.records.member import Member
from cluster.stage import load_stages
from pipelines.search import TRIALS
from pipelines.sinks import WandbRun, WandbSink, replay
from pipelines.tracking import read_images, read_metrics
from pipelines.wandb_server import push, shown_steps

#: What was sent, a line a segment; only ever appended to.
RECORD = "synced.jsonl"
_WORKPLACE = ".sync-"
#: For how long a server may not show yet what it was sent, seconds.
_LAG = 600.0


@dataclass(frozen=True)
class Gap:
    """What a server lacks of a member.

    Attributes:
        member: The member.
        run: What it is called there.
        shown: Steps that the server has.
        lacking: Steps of the log that it has not.
    """

    member: Member
    run: WandbRun
    shown: frozenset[int]
    lacking: frozenset[int]

    @property
    def log(self) -> Path:
        """The member's metrics."""
        return self.member.directory / "metrics.jsonl"


def tracked(
    members: Iterable[Member], project: str | None = None
) -> Iterator[tuple[Member, WandbRun]]:
    """The members with metrics and what they are called at W&B.

    Args:
        members: Some members.
        project: For those that ran without W&B, which are passed over otherwise; they are named by
            their run directory.
    """
    for member in members:
        run = WandbRun.load(member.directory)
        if run is None and project is not None:
            run = WandbRun(f"{member.run.name}-{member.name.replace('/', '-')}", project)
        if run is not None and (member.directory / "metrics.jsonl").exists():
            yield member, run


def find_gap(member: Member, run: WandbRun, ask: bool = True) -> Gap:
    """Compare the log of a member with what the server has.

    Args:
        member: The member.
        run: What it is called there.
        ask: Ask the server; otherwise go by the record of what was sent.

    Raises:
        SyncError: The server cannot be asked.
        MetricsError: The log is damaged.
    """
    if ask:
        known = shown_steps(run.path)
        # A server may show late what it was sent; later than that it has lost it.
        shown = set() if known is None else known | _recorded(member, run, time.time() - _LAG)
    else:
        shown = _recorded(member, run)
    return Gap(member, run, frozenset(shown), frozenset(_whole_steps(member, run) - shown))


def send(gaps: Sequence[Gap], directory: Path) -> dict[Member, str]:
    """Send what is lacking, and note what has arrived.

    Args:
        gaps: Of different members.
        directory: A directory for the segments, which are of no use afterwards.

    Returns:
        Of each member whose rows did not all arrive, what ``wandb sync`` said.
    """
    lacking = {gap.run.path: gap for gap in gaps if gap.lacking}
    segments = {path: _segment(gap, directory) for path, gap in lacking.items()}
    refused = push(segments, directory) if segments else {}
    for path in lacking.keys() - refused.keys():
        _note(lacking[path])
    return {lacking[path].member: said for path, said in refused.items()}


@contextmanager
def workplace(run: Path) -> Iterator[Path]:
    """A directory for segments, while no other sync of the run is at work."""
    with locked(run / "sync.lock"):
        for left in run.glob(f"{_WORKPLACE}*"):  # by a sync that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_WORKPLACE, dir=run) as directory:
            yield Path(directory)


def _whole_steps(member: Member, run: WandbRun) -> set[int]:
    """Steps to which nothing will be added; none of a member that just now sends by itself."""
    log = member.directory / "metrics.jsonl"
    steps = {int(row["step"] or 0) for row in read_metrics(log)}
    steps |= {image.step for image in read_images(log)}
    if _at_work(member):
        return set() if run.mode == "online" else steps - {max(steps, default=0)}
    return steps


def _at_work(member: Member) -> bool:
    """Whether an attempt goes on: one of its own, or, of a trial, one of any worker of the run."""
    if member.stage == TRIALS:
        return any(_at_work(worker) for stage in load_stages(member.run) for worker in stage)
    attempts = member.ledger.attempts()
    return bool(attempts) and attempts[-1].cause is None


def _segment(gap: Gap, directory: Path) -> Path:
    """Write an offline run of what is lacking."""
    # One directory a member: W&B names what is in it by the second.
    home = directory / gap.member.name.replace("/", "-")
    run, goes_on = gap.run, min(gap.lacking) > max(gap.shown, default=-1)
    sink = WandbSink(home, run.identifier, project=run.project, config=run.config, resume=goes_on)
    replay(gap.log, sink, gap.lacking)
    (segment,) = home.glob("wandb/offline-run-*")
    return segment


def _note(gap: Gap) -> None:
    line = {"run": gap.run.path, "steps": spans(gap.lacking), "time": time.time()}
    append_line(gap.member.directory / RECORD, line)


def _recorded(member: Member, run: WandbRun, since: float = 0.0) -> set[int]:
    lines = read_lines(member.directory / RECORD)
    return {
        step
        for line in lines
        if line["run"] == run.path and line["time"] >= since
        for first, last in line["steps"]
        for step in range(first, last + 1)
    }


def spans(steps: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of consecutive steps, in order."""
    found: list[tuple[int, int]] = []
    for step in sorted(steps):
        if found and step == found[-1][1] + 1:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return found
