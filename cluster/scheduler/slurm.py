"""Slurm's commands: what they are asked, and how their answers read."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cluster.cause import UNKNOWN, JobFacts


class SlurmError(Exception):
    """A command of Slurm's is missing, refused what it was asked, or did not answer."""


class SlurmBusyError(SlurmError):
    """Slurm could not answer just now, and may if it is asked again.

    What it was asked to do may have been done all the same.
    """


#: What Slurm says where the fault is the moment's and not the job's.
_BUSY = re.compile(
    "socket timed out|unable to contact slurm controller|controller not responding"
    "|temporarily unable to accept job|resource temporarily unavailable"
    "|zero bytes were transmitted|connection (refused|reset|timed out|failure)"
    "|communication (connection|shutdown|socket|send|receive)"
    "|message (send|receive) failure|transport endpoint is not connected"
    "|backup controller|in standby mode|temporary failure in name resolution",
    re.IGNORECASE,
)


#: Columns of a field of squeue's, which has no separator that a value could not hold.
_WIDTH = 60


def available() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None and _answers()


def run(command: Sequence[str], timeout: float = 60.0) -> str:
    """Run a command of Slurm's and return what it printed.

    Raises:
        SlurmBusyError: It did not answer in time, was killed, or said that Slurm is busy.
        SlurmError: It is not installed, or was refused.
    """
    return _ask(command, timeout).stdout


def _ask(command: Sequence[str], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            # A user's own format would hide the times that decisions are made from.
            env=os.environ | {"SLURM_TIME_FORMAT": "standard"},
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"'{command[0]}' is not installed here: expected Slurm's client commands on PATH. "
            "Use a login node, '--backend local', or 'yaoki slurmbox up'."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmBusyError(f"'{command[0]}' did not answer within {timeout:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        kind = SlurmBusyError if _was_busy(done.returncode, said) else SlurmError
        raise kind(f"'{' '.join(command)}' exited {done.returncode}: {said}")
    return done


def _was_busy(status: int, said: str) -> bool:
    # The last line is the verdict: before it, sbatch notes each time that it tried again itself.
    return status < 0 or bool(_BUSY.search(said.rpartition("\n")[2]))


def submit(script: Path, comment: str = "") -> str:
    """Submit a batch script and return the job id.

    Args:
        script: The script.
        comment: A text that Slurm keeps with the job.

    Raises:
        SlurmBusyError: sbatch did not come to an answer; it may have been accepted, or not.
        SlurmError: sbatch refused it.
    """
    options = [f"--comment={comment}"] if comment else []
    said = run(["sbatch", "--parsable", *options, str(script)]).strip()
    job_id = said.rpartition("\n")[2].split(";")[0]
    if not job_id.isdigit():
        raise SlurmBusyError(f"'sbatch --parsable {script}': expected a job id, found '{said}'")
    return job_id


def commented(mark: str) -> list[str]:
    """Ids of this user's jobs whose comment ends with a mark, an array by its one id.

    Those that Slurm has forgotten are looked for in its accounting, if it has one.

    Raises:
        SlurmError: Slurm did not answer.
    """
    # %F and not %A: elements of an array get ids of their own when they start.
    command = ["squeue", "--me", "--noheader", "--states=all", "--format=%F|%k"]
    rows = [line.strip().partition("|") for line in run(command).splitlines()]
    found = [job for job, _, comment in rows if comment.endswith(mark)]
    return list(dict.fromkeys(found or _commented_before(mark)))


def _commented_before(mark: str) -> list[str]:
    # Accounting keeps comments only where it is told to, but always how sbatch was called.
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-1days"]
    try:
        text = run([*command, "--format=JobID,SubmitLine"], timeout=20)
    except SlurmError:
        return []
    rows = [line.partition("|") for line in text.splitlines()]
    return [job.split("_")[0] for job, _, called in rows if mark in called]


def test_only(script: Path) -> str:
    """Let Slurm check a batch script without submitting it; returns its estimate of the start.

    Raises:
        SlurmError: sbatch would refuse it.
    """
    return _ask(["sbatch", "--test-only", str(script)]).stderr.strip()


def configuration() -> dict[str, str]:
    """Settings of this cluster, by name as in slurm.conf.

    Raises:
        SlurmError: Slurm did not answer.
    """
    lines = (line.partition("=") for line in run(["scontrol", "show", "config"]).splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def job_facts(job_id: str) -> JobFacts | None:
    """What Slurm says of a job that runs or ended just now, or None where it cannot be asked."""
    try:
        return describe(job_id)
    except SlurmBusyError:
        return None


def describe(job_id: str) -> JobFacts | None:
    """As :func:`job_facts`, telling a Slurm that is busy from one that cannot be asked from here.

    Where ``scontrol`` is missing or refuses, as on the nodes of some clusters, squeue is asked.

    Raises:
        SlurmBusyError: It may answer later.
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    try:
        text = run(["scontrol", "show", "job", "--details", "--oneliner", job_id], timeout=20)
    except SlurmBusyError:
        raise
    except SlurmError:
        return _facts_of_squeue(job_id, restarts)
    return parse_job_facts(text, restarts)


def own_facts(job_id: str) -> JobFacts | None:
    """The facts of the job that this process runs in; its environment says when the limit ends."""
    facts = job_facts(job_id)
    limit = os.environ.get("SLURM_JOB_END_TIME", "")
    if facts is None and limit.isdigit():
        return JobFacts(UNKNOWN, end_time=float(limit))
    return facts


def parse_job_facts(text: str, restarts: int = 0) -> JobFacts:
    """Read a line of ``scontrol show job --details --oneliner``.

    Args:
        text: The line.
        restarts: How often the job had been started again when the asking process started: a
            higher count says that Slurm has put it back into the queue since.
    """
    # The first of a name counts: a path or a comment further on may hold anything. The job's name
    # stands ahead, and is left out.
    named = re.sub(r"\bJobName=.*?(?= UserId=)", "", text, count=1)
    fields = dict(reversed(re.findall(r"(\w+)=(\S*)", named)))
    return JobFacts(
        state=fields.get("JobState", UNKNOWN),
        reason=fields.get("Reason", "None"),
        end_time=timestamp(fields.get("EndTime", "")),
        preempted=timestamp(fields.get("PreemptTime", "")) is not None,
        requeued=int(fields.get("Restarts", 0)) > restarts,
        out_of_memory=fields.get("DerivedExitCode", "").endswith(":125"),
        step_code=fields.get("DerivedExitCode", ""),
    )


def _facts_of_squeue(job_id: str, restarts: int) -> JobFacts | None:
    names = ("State", "Reason", "EndTime", "PreemptTime", "RestartCnt")
    form = ",".join(f"{name}:{_WIDTH}" for name in names)
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", f"--Format={form}"]
    try:
        text = run(command, timeout=20).rstrip("\n")
    except SlurmBusyError:
        raise
    except SlurmError:
        return None
    state, reason, end, preempted, count = (
        text[start : start + _WIDTH].strip() for start in range(0, len(names) * _WIDTH, _WIDTH)
    )
    if not state:
        return None
    return JobFacts(
        state=state,
        reason=reason,
        end_time=timestamp(end),
        preempted=timestamp(preempted) is not None,
        requeued=count.isdigit() and int(count) > restarts,
    )


def requeue(job_id: str) -> None:
    """Put a job, or one element of an array, back into the queue.

    Raises:
        SlurmError: Slurm refused; the job ends here.
    """
    run(["scontrol", "requeue", job_id])


def set_memory(job_id: str, mebibytes: int) -> None:
    """Change the memory that a job which waits asks for on a node.

    Raises:
        SlurmError: Slurm refused; the job keeps what it has.
    """
    run(["scontrol", "update", f"JobId={job_id}", f"MinMemoryNode={mebibytes}"])


def largest_node(partition: str | None) -> int | None:
    """The memory of the largest node in MiB, or None where Slurm does not say.

    Slurm takes a request above it and never starts the job.
    """
    where = [f"--partition={partition}"] if partition else []
    try:
        text = run(["sinfo", "--noheader", "--format=%m", *where], timeout=20)
    except SlurmError:
        return None
    return max((int(size) for size in re.findall(r"\d+", text)), default=None)


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs or elements of arrays.

    Raises:
        SlurmError: scancel failed.
    """
    if job_ids:
        run(["scancel", *job_ids])


def queued_states(job_ids: Sequence[str]) -> dict[str, str]:
    """States of the jobs that Slurm still holds, one query for all, by ``job`` or ``job_task``.

    Raises:
        SlurmError: Slurm did not answer. A job that it has forgotten is simply absent.
    """
    if not job_ids:
        return {}
    wanted = ",".join(sorted(set(job_ids)))
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"]
    try:
        text = run([*command, f"--jobs={wanted}"])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    return dict(line.strip().split("|", 1) for line in text.splitlines() if "|" in line)


def own_job_id() -> str | None:
    """The id of the job this process runs in, as scontrol takes it, e.g. ``17_3``."""
    names = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID")
    return job_name({name.lower(): os.environ.get(f"SLURM_{name}") for name in names})


def job_name(ids: Mapping[str, str | None]) -> str | None:
    """The id of a job as scontrol takes it, from Slurm's variables as the ledger holds them."""
    array, task = ids.get("array_job_id"), ids.get("array_task_id")
    return f"{array}_{task}" if array and task else ids.get("job_id")


def _answers() -> bool:
    try:
        run(["scontrol", "ping"], timeout=20)
    except SlurmError:
        return False
    return True


def timestamp(text: str) -> float | None:
    """Read a time as Slurm writes it, as seconds since the epoch; None for ``Unknown``."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp()
