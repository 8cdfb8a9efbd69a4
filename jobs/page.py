"""The page of a run as it stands now."""

import time
from pathlib import Path

from cluster.accounts.advice import advice
from cluster.accounts.bookkeeping import run_usage
from cluster.accounts.usage import RunUsage
from cluster.scheduler.slurm import SlurmError
from cluster.status import MemberStatus
from jobs.advising import sentence
from jobs.solitude import seen_status
from pipelines.report import RunState, write_run_page


def run_state(run: Path, usage: RunUsage | None = None) -> RunState:
    """Look at a run. Where Slurm does not answer, the state says so and what is on disk remains.

    Args:
        run: The run directory.
        usage: What its members were given and used, if that is known already.
    """
    usage = usage or run_usage(run)
    members: list[MemberStatus] = []
    problem = ""
    try:
        members = seen_status(run)
    except SlurmError as error:
        problem = str(error)
    told = [sentence(run, line) for stage in usage.stages for line in advice(stage)]
    return RunState(usage, members, time.time(), told, problem)


def write_page(run: Path) -> Path:
    """Write ``report/index.html`` of a run as it stands now.

    Raises:
        RunError: The plan or a section of the workload cannot be read.
        OSError: The page cannot be written.
    """
    return write_run_page(run_state(run))
