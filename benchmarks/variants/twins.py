"""The unfaulted twins, trained outside Slurm, and who ended as his twin did."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faults.twins import same
from benchmarks.faults.work import Terms, equal
from benchmarks.variants.array import VariantsArray
from benchmarks.variants.grid import config_of
from cluster import Member
from jobs.collecting import stored
from jobs.launch import Launcher
from jobs.lstm.evaluation import layout
from jobs.lstm.sites import read_records
from jobs.outputs import weights_path
from pipelines.plan import Plan
from pipelines.tracking import VOLATILE, read_metrics


def twins_of(plan: Plan, terms: Terms, victims: Sequence[int]) -> VariantsArray:
    """The array of the twins, with data of its own."""
    elsewhere = replace(plan, runs=terms.root / "twins")
    return VariantsArray(elsewhere, terms, victims, "inline", "variants-twins")


def run_twins(plan: Plan, terms: Terms, victims: Sequence[int], others: Sequence[int]) -> None:
    """Train the twins of victims and of some others, in this process and without pauses."""
    twins = twins_of(plan, terms, victims)
    twins.lay_out(pace=0.0)
    stages = twins.plan.stages
    Launcher(replace(twins.plan, stages=stages[:-2]), "inline").run()
    twins.launcher.executor(stages[-2]).send([*victims, *others])


def ended_alike(array: VariantsArray, twins: VariantsArray, victim: int) -> bool:
    """Whether a victim came to the same as its twin: all that it was, and all that it left."""
    finals = [each.terms.scene(each.name, victim).final_file for each in (array, twins)]
    finished = all(final.exists() for final in finals)
    return finished and same(*finals) and left_alike(array, twins, array.victims[victim])


def left_alike(array: VariantsArray, twins: VariantsArray, member: int) -> bool:
    """Whether a member has left the same as its twin: weights, predictions, scores, metrics."""
    found = [_left(each.plan, member) for each in (array, twins)]
    return all(found) and equal(*found)


def _left(plan: Plan, index: int) -> dict[str, Any]:
    """What a member has left, or nothing where that is not all there."""
    run, config = plan.directory, config_of(plan)
    weights = weights_path(run, index)
    if not weights.exists():
        return {}
    names = [spec.name for spec in layout(config, read_records(config, run))]
    arrays = {name: np.asarray(stored(run, name, index)).tobytes() for name in names}
    metrics: Path = Member(run, "train", index).directory / "metrics.jsonl"
    rows = [dict(row) for row in read_metrics(metrics, without=VOLATILE)]
    return {**arrays, "weights": torch.load(weights, weights_only=True), "metrics": rows}
