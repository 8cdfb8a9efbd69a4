"""Stage ``collect``: seal the ensemble, count the steps to each level, and write the report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cluster import Member
from jobs.adding.collected import Point, points_of
from jobs.adding.config import AddingConfig
from jobs.collecting import write_report
from jobs.outputs import ensemble_path
from pipelines.ensemble import collect as seal


def collect(config: AddingConfig, member: Member) -> dict[str, float]:
    """Seal the ensemble, write ``report/``, and return the scores.

    Raises:
        EnsembleError: A member is missing or damaged.
    """
    return summarize(config, member.run)


def summarize(config: AddingConfig, run: Path, partial: bool = False) -> dict[str, float]:
    """Seal what is whole, compare, and write the report.

    Args:
        config: The job.
        run: The run directory.
        partial: Go on although members are missing.

    Raises:
        EnsembleError: Members are missing.
    """
    from jobs.adding.showing import section  # brings matplotlib

    manifest = seal(ensemble_path(run), partial)
    points = points_of(config, run, manifest["valid"])
    scores = evaluate(points)
    write_report(run, "adding", scores, lambda: section(points, run))
    return scores


def evaluate(points: Sequence[Point]) -> dict[str, float]:
    """Of each point, the share of members that have learned the task, and the median error."""
    scores = {}
    for point in points:
        name = f"{point.name}_{point.config.length}"
        scores[f"{name}_learned"] = point.reached() / len(point.members)
        scores[f"{name}_test_mse"] = float(np.median([member.test for member in point.members]))
    # JSON has no number for the error of networks that have exploded.
    return {name: value for name, value in scores.items() if np.isfinite(value)}
