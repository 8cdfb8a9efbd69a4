"""Whether two runs of a job came to the same, bit for bit."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cluster.checkpoints.checkpoint import CheckpointStore
from cluster.stage import load_stages
from pipelines.tracking import VOLATILE, read_metrics
from support.small_work import equal


def differences(
    run: Path,
    twin: Path,
    sizes_too: bool = True,
    folders: Sequence[str] = ("data", "ensemble.zarr"),
) -> list[str]:
    """Everything that two runs of one job made and that is not the same in both.

    Compared are all files of data and ensemble by their bytes, weights, the last checkpoint of
    every member (weights, optimizer, EMA, counters, generators), and its metrics.

    Args:
        run: A run directory.
        twin: Another.
        sizes_too: Compare the learned microbatch as well, which out-of-memory rightly changes.
        folders: Of data; both runs must have them.
    """
    found = [
        f"{folder}: other files or other bytes"
        for folder in folders
        if _tree(run / folder) != _tree(twin / folder)
    ]
    found += [
        f"weights/{path.name}"
        for path in sorted((twin / "weights").glob("*.pt"))
        if not equal(_load(run / "weights" / path.name), _load(path))
    ]
    for stage in load_stages(twin):
        for member in stage:
            other = run / "members" / stage.name / f"{member.index:04d}"
            if not equal(_last_state(other, sizes_too), _last_state(member.directory, sizes_too)):
                found.append(f"{member.name}: last checkpoint")
            if _metrics(other) != _metrics(member.directory):
                found.append(f"{member.name}: metrics")
    return found


def _tree(folder: Path) -> dict[str, str]:
    assert folder.is_dir(), f"{folder} is missing"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def _last_state(directory: Path, sizes_too: bool) -> Any:
    checkpoint = CheckpointStore(directory / "checkpoint").load()
    if checkpoint is None:
        return None
    work = {
        key: value
        for key, value in checkpoint.state["work"].items()
        if sizes_too or key != "accumulator"
    }
    return {"step": checkpoint.step, "work": work, "random": checkpoint.state["random"]}


def _metrics(directory: Path) -> list[Any]:
    path = directory / "metrics.jsonl"
    return read_metrics(path, without=VOLATILE) if path.exists() else []
