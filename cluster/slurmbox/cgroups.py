"""Control groups: what limits a job's memory here, and which processes belong to a job."""

import enum
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("freezer", "memory", "cpuset", "cpuacct", "devices")


class MemoryControl(enum.StrEnum):
    """What stops a job that uses more memory than it asked for."""

    V1 = "cgroup/v1"
    V2 = "cgroup/v2"
    POLLING = "polling"


def detect() -> MemoryControl:
    """The best control this machine offers to this process.

    Polling means that no memory controller can be written to (an ordinary container,
    say): Slurm then samples memory every second and kills what is over, which sacct
    reports as a failure with signal 9 and not as OUT_OF_MEMORY.
    """
    if all(_writable(ROOT / name) for name in ("memory", "freezer")):
        return MemoryControl.V1
    controllers = _read(ROOT / "cgroup.controllers").split()
    if "memory" in controllers and _writable(ROOT):
        return MemoryControl.V2
    return MemoryControl.POLLING


def swap_is_limitable(control: MemoryControl) -> bool:
    """Whether the kernel accounts swap; asking Slurm to limit it fails every job otherwise."""
    if control is MemoryControl.V1:
        return (ROOT / "memory/memory.memsw.limit_in_bytes").exists()
    return control is MemoryControl.V2 and any(ROOT.glob("*/memory.swap.max"))


def job_processes(node: str, job_numbers: range) -> set[int]:
    """Processes in the groups of the jobs in ``job_numbers`` on ``node``, step daemons included."""
    found: set[int] = set()
    for job in _job_groups(node, job_numbers):
        for members in job.rglob("cgroup.procs"):
            found.update(int(line) for line in _read(members).split())
    return found


def remove_groups(node: str, job_numbers: range, *, alone: bool) -> None:
    """Remove what Slurm leaves behind for ``node``: its jobs' groups and, if ``alone``, its own.

    Only empty groups go: the kernel refuses to remove one that has processes.
    """
    for job in list(_job_groups(node, job_numbers)):
        _remove(job)
    if alone:
        for group in _node_groups(node):
            _remove(group)


def _job_groups(node: str, job_numbers: range) -> Iterator[Path]:
    for group in _node_groups(node):
        for job in group.rglob("job_*"):
            number = job.name.removeprefix("job_")
            if number.isdigit() and int(number) in job_numbers:
                yield job


def _node_groups(node: str) -> Iterator[Path]:
    candidates = [ROOT / name / f"slurm_{node}" for name in _CONTROLLERS]
    candidates.append(ROOT / "system.slice" / f"{node}_slurmstepd.scope")
    yield from (group for group in candidates if group.is_dir())


def _remove(group: Path) -> None:
    children = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
    for path in [*children, group]:
        try:
            path.rmdir()
        except OSError:
            # In use, or just removed by Slurm itself.
            continue


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _writable(directory: Path) -> bool:
    probe = directory / "yaoki_probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True
