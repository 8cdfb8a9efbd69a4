"""The processes of jobs, which outlive the daemon of their node unless someone ends them."""

import re
import shutil
from pathlib import Path

from . import cgroups, processes

_TITLE = re.compile(r"slurmstepd: \[(\d+)\.")


def end_jobs(directory: Path, node: str, job_numbers: range) -> None:
    """SIGKILL every process of every job that the box has on ``node``.

    The step daemons go first, so that none of them can report the end of its job.
    """
    daemons = step_daemons(directory, node)
    rest = processes.descendants(daemons) | cgroups.job_processes(node, job_numbers)
    processes.kill(daemons)
    processes.kill(rest - daemons)
    # A process may have forked while it was being killed; its group still names the child.
    processes.kill(cgroups.job_processes(node, job_numbers))
    _forget_jobs(directory, node)


def _forget_jobs(directory: Path, node: str) -> None:
    """Remove what killed step daemons leave in the node's spool directory.

    By a socket the job would be ended once more if the node were lost again, wherever the job
    runs by then. By a script it could not start on this node again.
    """
    for socket in _sockets(directory, node):
        socket.unlink(missing_ok=True)
    for scripts in (directory / "spool" / node).glob("job[0-9]*"):
        shutil.rmtree(scripts, ignore_errors=True)


def step_daemons(directory: Path, node: str) -> set[int]:
    """The slurmstepd processes of the box in ``directory`` that serve jobs on ``node``."""
    jobs = _jobs_on(directory, node)
    found = set()
    for pid in processes.running():
        title = _TITLE.match(" ".join(processes.arguments(pid)))
        if title and title[1] in jobs and processes.working_directory(pid) == directory:
            found.add(pid)
    return found


def _jobs_on(directory: Path, node: str) -> set[str]:
    """Numbers of the jobs with a step socket (``n0_17.0``) in the node's spool directory."""
    names = (path.name for path in _sockets(directory, node))
    return {name.removeprefix(f"{node}_").partition(".")[0] for name in names}


def _sockets(directory: Path, node: str) -> list[Path]:
    return list((directory / "spool" / node).glob(f"{node}_*.*"))
