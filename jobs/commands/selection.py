"""Which run, and which of its members, a command is about."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.records.member import Member
from cluster.stage import RunError, load_stages

if TYPE_CHECKING:
    from jobs.catalog import Workload
    from pipelines.config import Config


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add the run that the command is about."""
    parser.add_argument(
        "run", nargs="?", help="run directory, or the start of its name (default: the latest)"
    )
    add_runs_option(parser)


def add_runs_option(parser: argparse.ArgumentParser) -> None:
    """Add the directory of runs."""
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="directory of runs (default: ./runs)"
    )


def add_every_option(parser: argparse.ArgumentParser, seconds: float) -> None:
    """Add the time between two looks at a run.

    Args:
        parser: The parser of the command.
        seconds: The default.
    """
    text = f"seconds between two looks (default: {seconds:g})"
    parser.add_argument("--every", type=_seconds, default=seconds, help=text)


def find_run(arguments: argparse.Namespace) -> Path:
    """The run directory that the arguments name.

    Raises:
        RunError: There is none, or the name fits several.
    """
    named: str | None = arguments.run
    if named is not None and any(
        (Path(named) / part).exists() for part in ("plan.yaml", "members")
    ):
        return Path(named).absolute()  # one that an executor made has members and no plan
    runs: Path = arguments.runs
    found = [path.parent for path in runs.glob("*/plan.yaml")]
    if named is not None:
        return _only([path for path in found if path.name.startswith(named)], named, runs)
    if not found:
        raise RunError(
            f"{runs}: expected a run directory, found none. 'yaoki run' or 'yaoki submit' makes "
            "one; --runs names another place."
        )
    return max(found, key=lambda run: (run / "plan.yaml").stat().st_mtime).absolute()


def workload_of(run: Path) -> "tuple[Workload, Config]":
    """The workload and configuration that a run was made from.

    Raises:
        RunError: The plan cannot be read, or names an unknown workload.
    """
    # Here, as most commands need none of it, and it takes most of their time.
    from jobs.catalog import WORKLOADS
    from pipelines.plan import load_plan

    record = dict(load_plan(run))
    if record["job"] not in WORKLOADS:
        known = ", ".join(WORKLOADS)
        raise RunError(f"{run}: expected one of the workloads {known}, found '{record['job']}'")
    workload = WORKLOADS[record["job"]]
    try:
        return workload, workload.restore(record)
    except ValueError as error:
        raise RunError(
            f"{run}: expected a configuration as this version of yaoki writes it, found another: "
            f"{error}. Use the version that made the run ({record.get('yaoki', 'unknown')})."
        ) from error


def chosen_members(run: Path, names: Iterable[str]) -> list[Member]:
    """Members by name: ``train``, ``train/2`` or ``train/0002``; all where none is named.

    Raises:
        RunError: A name fits no member.
    """
    stages = {stage.name: stage for stage in load_stages(run)}
    names = list(names) or list(stages)
    members: list[Member] = []
    for name in names:
        stage, _, index = name.partition("/")
        if stage not in stages or not (index.isdigit() or not index):
            raise RunError(
                f"{run.name}: expected a stage ({', '.join(stages)}) or a member such as "
                f"'{next(iter(stages), 'train')}/0', found '{name}'"
            )
        members += [stages[stage].member(int(index))] if index else list(stages[stage])
    return members


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected at least 1 second, found '{text}'")
    return value


def _only(found: list[Path], named: str, runs: Path) -> Path:
    if len(found) == 1:
        return found[0].absolute()
    fitting = ", ".join(sorted(path.name for path in found)) or "none"
    raise RunError(f"expected one run that starts with '{named}' in {runs}, found: {fitting}")
