"""What the comparison shows of a run: facts, tables and pictures of its page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.adding.collected import Point
from jobs.adding.pictures import error_panels, example, scatter_panels
from jobs.adding.problem import measured_on
from jobs.adding.training import untrained
from jobs.collecting import save_picture
from pipelines.report import Fact, Picture, Section, Table


def section(points: Sequence[Point], run: Path) -> Section:
    """The part of the page that is the job's own."""
    return Section(
        "The Adding Problem",
        "The sum of two marked values among T; whoever always says the mean has the error "
        "of the column Variance. Training stops at the goal or at the limit of steps.",
        [_fact(point) for point in points],
        _pictures(points, run),
        [_points_table(points), _members_table(points)],
    )


def _fact(point: Point) -> Fact:
    learned = f"{point.reached()} of {len(point.members)}"
    goal, limit = point.config.task.goal, point.config.steps
    return Fact(
        f"{point.name}, T = {point.config.length}",
        learned,
        f"below {goal:g} within {limit:,} steps",
    )


def _points_table(points: Sequence[Point]) -> Table:
    levels = points[0].config.evaluation.levels
    columns = ["Network", "T", "Parameters", "Goal", "Limit", "Learned"]
    columns += [f"Median steps to {level:g}" for level in levels]
    columns += ["Final MSE, median", "least", "greatest", "Test MSE, median", "Variance"]
    return Table("Networks", columns, [_point_row(point, levels) for point in points])


def _point_row(point: Point, levels: Sequence[float]) -> list[object]:
    finals = [member.final for member in point.members]
    tests = [member.test for member in point.members]
    parameters = sum(p.numel() for p in untrained(point.config).parameters())
    return [
        point.name,
        point.config.length,
        parameters,
        point.config.task.goal,
        point.config.steps,
        f"{point.reached()} of {len(point.members)}",
        *(point.median_steps(level) for level in levels),
        *map(_short, (np.median(finals), min(finals), max(finals), np.median(tests))),
        _short(point.middle.variance),
    ]


def _members_table(points: Sequence[Point]) -> Table:
    levels = points[0].config.evaluation.levels
    columns = ["Member", "Network", "T", "Seed", "Steps"]
    columns += [f"Steps to {level:g}" for level in levels] + ["Final MSE", "Test MSE"]
    rows: list[list[object]] = [
        [
            member.index,
            point.name,
            point.config.length,
            point.config.seed_number(member.index),
            int(member.steps[-1]),
            *(member.steps_to(level) for level in levels),
            _short(member.final),
            _short(member.test),
        ]
        for point in points
        for member in point.members
    ]
    return Table("Members", columns, rows, filtered="Network")


def _short(value: Any) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _pictures(points: Sequence[Point], run: Path) -> list[Picture]:
    drawn = {
        "errors": (
            error_panels(points),
            "Validation error over the steps: every seed, and the median one of each network.",
            "Panels of falling curves, one panel a length, one color a network.",
        ),
        "scatter": (
            scatter_panels(points),
            "What the median seed of each network says of the validation sequences, with its MSE.",
            "Panels of predicted against true sums with the diagonal.",
        ),
    }
    for length in dict.fromkeys(point.config.length for point in points):
        mine = [point for point in points if point.config.length == length]
        drawn[f"example_{length}"] = (
            _example(mine),
            f"The first validation sequence of {length} steps, and what the median seeds say.",
            "A sequence of values, two of which are marked, and predictions of their sum.",
        )
    return [save_picture(run, name, *parts) for name, parts in drawn.items()]


def _example(points: Sequence[Point]) -> Any:
    sequences = measured_on(points[0].config, "validation")
    said = {point.name: float(point.middle.prediction[0]) for point in points}
    return example(sequences.x[0].numpy(), said, float(sequences.y[0]))
