"""What Slurm's accounting says of jobs: how each run ended, when it was, what it was given."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from cluster.scheduler import slurm

_FIELDS = (
    *("JobID", "State", "Eligible", "Start", "End", "TimelimitRaw"),
    *("AllocTRES", "TotalCPU", "MaxRSS", "NTasks", "NNodes"),
)
_JOB = re.compile(r"\d+(_\d+)?")


@dataclass(frozen=True)
class JobRun:
    """One run of a job. A requeue makes another one of the same id.

    Attributes:
        state: Slurm's state, in one word.
        eligible: When it could have started, seconds since the epoch, if that is known.
        started: When it started, likewise.
        ended: When it ended, or None while it runs.
        limit: Its time limit in seconds, or None where there is none.
        cpus: Cores, on all nodes.
        gpus: GPUs, on all nodes.
        cpu_seconds: Processor time of all its steps, or None where it is not known (yet).
        peak: The most memory that was seen in use on a node, in MiB, or None where nothing was
            sampled. Steps that run beside each other are added up.
    """

    state: str
    eligible: float | None
    started: float
    ended: float | None
    limit: float | None
    cpus: int
    gpus: int
    cpu_seconds: float | None = None
    peak: float | None = None


def job_runs(job_ids: Iterable[str]) -> dict[str, list[JobRun]]:
    """All runs of jobs that have started, oldest first, by ``job`` or ``job_task``; one query.

    Args:
        job_ids: Ids; that of an array stands for all of its elements.

    Raises:
        SlurmError: Accounting is missing or did not answer.
    """
    wanted = ",".join(sorted(set(job_ids)))
    if not wanted:
        return {}
    command = ["sacct", "--duplicates", "--noheader", "--parsable2", "--units=K"]
    return parse_runs(slurm.run([*command, f"--format={','.join(_FIELDS)}", f"--jobs={wanted}"]))


def parse_runs(text: str) -> dict[str, list[JobRun]]:
    """Read what ``sacct --duplicates`` prints: a row of a run, and after it those of its steps."""
    runs: dict[str, list[JobRun]] = {}
    for job, rows in _grouped(text):
        run = _run(rows[0])
        if run is not None:
            peaks = [peak for row in rows[1:] if (peak := _peak(row)) is not None]
            runs.setdefault(job, []).append(replace(run, peak=sum(peaks) if peaks else None))
    return {job: sorted(found, key=lambda run: run.started) for job, found in runs.items()}


def run_at(runs: Sequence[JobRun], moment: float, slack: float = 2.0) -> JobRun | None:
    """The run in which a moment lies.

    An id alone may be that of another cluster's job, where a run directory was copied. Clocks of
    nodes differ a little, and accounting counts whole seconds: ``slack`` is for both.
    """
    for run in reversed(runs):
        if run.started <= moment + slack:
            return run if run.ended is None or moment <= run.ended + slack else None
    return None


def _grouped(text: str) -> list[tuple[str, list[Mapping[str, str]]]]:
    """The row of each run with those of its steps behind it."""
    groups: list[tuple[str, list[Mapping[str, str]]]] = []
    for line in text.splitlines():
        values = line.split("|")
        if len(values) != len(_FIELDS):
            continue
        row = dict(zip(_FIELDS, values, strict=True))
        job, _, step = row["JobID"].partition(".")
        if step and groups and groups[-1][0] == job:
            groups[-1][1].append(row)
        elif _JOB.fullmatch(row["JobID"]):  # else elements of an array that wait, as one row
            groups.append((job, [row]))
    return groups


def _run(row: Mapping[str, str]) -> JobRun | None:
    started = slurm.timestamp(row["Start"])
    if started is None:
        return None
    limit = row["TimelimitRaw"]
    given = dict(pair.split("=", 1) for pair in row["AllocTRES"].split(",") if "=" in pair)
    return JobRun(
        state=row["State"].split()[0],
        eligible=slurm.timestamp(row["Eligible"]),
        started=started,
        ended=slurm.timestamp(row["End"]),
        limit=60.0 * int(limit) if limit.isdigit() else None,
        cpus=int(given.get("cpu", 1)),
        gpus=int(given.get("gres/gpu", 0)),
        cpu_seconds=_seconds(row["TotalCPU"]),
    )


def _peak(row: Mapping[str, str]) -> float | None:
    """The memory of a step on a node, in MiB: that of its largest task, for each task there."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)K?", row["MaxRSS"])
    if found is None or not row["NTasks"].isdigit():
        return None
    tasks = ceil(int(row["NTasks"]) / max(1, int(row["NNodes"] or 1)))
    return float(found[1]) / 1024 * tasks


def _seconds(text: str) -> float | None:
    """Read ``[D-][HH:]MM:SS[.mmm]``; zero is what Slurm says before it knows."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds or None


@dataclass(frozen=True)
class RunStates:
    """What accounting has of one run of a job; each requeue begins another.

    Attributes:
        states: The job's own state, then those of its steps.
    """

    states: tuple[str, ...]

    @property
    def outcome(self) -> str | None:
        """How it ended, or None where accounting has not heard of an end.

        One whose step was killed for its memory reads OUT_OF_MEMORY, whatever its own row says.
        """
        if self.states[0] in ("RUNNING", "PENDING", "COMPLETING"):
            return None
        return "OUT_OF_MEMORY" if "OUT_OF_MEMORY" in self.states else self.states[0]


def run_states(job_ids: Sequence[str]) -> dict[str, list[RunStates]]:
    """What accounting has of the runs of some jobs, oldest first, in one query.

    Rows come seconds late, so that the newest may be missing; where accounting cannot be asked
    there are none.
    """
    runs: dict[str, list[RunStates]] = {job: [] for job in job_ids}
    rows = _accounting(",".join(job_ids), "JobID,State", "--duplicates") if job_ids else []
    for name, said in rows:
        job, dot, _ = name.partition(".")
        state = said.partition(" ")[0]  # without the "by 1000" of CANCELLED
        if job not in runs or not state:
            continue
        if not dot:
            runs[job].append(RunStates((state,)))
        elif runs[job]:
            runs[job][-1] = RunStates((*runs[job][-1].states, state))
    return runs


def run_state(job_id: str, number: int) -> str | None:
    """How run ``number`` of a job ended, from 0; None where accounting does not know (yet)."""
    runs = run_states([job_id])[job_id]
    return runs[number].outcome if number < len(runs) else None


def step_state(job_id: str) -> str | None:
    """The state of the step in the newest run of a job; None where accounting cannot say."""
    rows = _accounting(job_id, "JobID,State")
    steps = [state for job, state in rows if job.endswith(".0")]
    if steps:
        return steps[-1].split()[0]
    return "RUNNING" if rows else None  # a step that accounting has not heard of yet


def peak_memory(job_id: str) -> int | None:
    """The most memory that Slurm saw the newest run of a job use, in MiB, if it knows."""
    text = " ".join(row[1] for row in _accounting(job_id, "JobID,MaxRSS"))
    return max((int(kib) // 1024 for kib in re.findall(r"(\d+)K", text)), default=None)


def _accounting(job_id: str, fields: str, *options: str) -> list[list[str]]:
    command = ["sacct", "--noheader", "--parsable2", *options, f"--format={fields}"]
    try:
        text = slurm.run([*command, f"--jobs={job_id}"], timeout=20)
    except slurm.SlurmError:
        return []
    return [line.split("|") for line in text.splitlines() if line.count("|") == fields.count(",")]
