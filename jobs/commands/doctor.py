"""``doctor``: what on this machine helps or hinders, before it costs a night."""

import argparse
import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from cluster.environment import available_cores
from cluster.scheduler import slurm
from cluster.slurmbox import missing_packages
from jobs.commands.exits import FAILED, OK
from jobs.commands.selection import add_runs_option
from jobs.shadowing import PACKAGES, location

_MARKS = {"ok": "  ok   ", "note": "  note ", "bad": "  BAD  "}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What.
        verdict: ``bad`` stops jobs; ``note`` is worth knowing.
        text: What was found and, where it is bad, what to do.
    """

    subject: str
    verdict: Literal["ok", "note", "bad"]
    text: str


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    doctor = commands.add_parser("doctor", help="check this machine and its packages")
    doctor.add_argument("data", nargs="*", type=Path, help="trajectory files to look at as well")
    add_runs_option(doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON for a program to read")
    doctor.set_defaults(handler=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    findings = [*examine(arguments.runs), *map(trajectory_file, arguments.data)]
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{_MARKS[finding.verdict]}{finding.subject:<14}{finding.text}")
    return FAILED if any(finding.verdict == "bad" for finding in findings) else OK


def examine(runs: Path) -> Iterator[Finding]:
    """Look at Python, packages, cores, devices, Slurm and the disk."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok", f"{version} at {sys.executable}")
    yield from shadowed_packages()
    yield Finding("cores", "ok", f"{available_cores()} for this process")
    yield _device()
    yield _scheduler()
    yield _slurmbox()
    yield _disk(runs)


def shadowed_packages() -> Iterator[Finding]:
    """Name every distribution that installs a package of the same name as one of ours.

    One that is found before ours has ended the command line already: see :mod:`jobs.shadowing`.
    """
    owners = metadata.packages_distributions()
    for name in PACKAGES:
        others = sorted(set(owners.get(name, [])) - {"yaoki"})
        if others:
            text = f"{', '.join(others)} installs a package of the same name; uninstall it"
            yield Finding(name, "bad", text)
        else:
            yield Finding(name, "ok", str(location(name)))


def trajectory_file(path: Path) -> Finding:
    """Look at a file of trajectories: whether it is whole, and what a window costs."""
    from pipelines.trajectories import SlowLayoutWarning, TrajectoryError, TrajectoryFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowLayoutWarning)  # it is told below
            file = TrajectoryFile(path)
    except TrajectoryError as error:
        return Finding("data", "bad", str(error))
    frames = min(5, file.shape[1])
    found = (
        f"{path}: (n, T, C, H, W) = {file.shape}; a window of {frames} frames takes "
        f"{file.window_seconds(frames) * 1e3:.2f} ms"
    )
    if file.contiguous:
        return Finding("data", "ok", found)
    return Finding("data", "note", f"{found}; it is chunked: 'yaoki repack {path} NEW' mends that")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        return Finding("device", "ok", f"torch {torch.__version__}, {', '.join(names)}")
    return Finding("device", "note", f"torch {torch.__version__}, no GPU here: members use the CPU")


def _scheduler() -> Finding:
    if shutil.which("sbatch") is None:
        return Finding("slurm", "note", "no sbatch on PATH: 'run' works, 'submit' does not")
    if not slurm.available():
        return Finding("slurm", "note", "sbatch is here, but no controller answers 'scontrol ping'")
    return Finding("slurm", "ok", slurm.run(["sbatch", "--version"]).strip())


def _slurmbox() -> Finding:
    missing = missing_packages()
    if missing:
        return Finding("slurmbox", "note", f"lacks {', '.join(missing)}: 'yaoki slurmbox install'")
    return Finding("slurmbox", "ok", "all its packages are installed")


def _disk(runs: Path) -> Finding:
    place = next(path for path in [runs.absolute(), *runs.absolute().parents] if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    verdict: Literal["ok", "bad"] = "ok" if free >= 1 else "bad"
    return Finding("disk", verdict, f"{free:.1f} GiB free for {runs}")
