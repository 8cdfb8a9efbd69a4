"""Statistics of a run's ensemble for its page: computed once for a seal and a truth, then kept."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cluster.records.files import write_atomic
from pipelines.ensemble import ArraySpec, Layout, read_layout
from pipelines.ensemble.documents import reported
from pipelines.statistics.onepass import Pass, Sliceable, check_truth, valid_members
from pipelines.statistics.outline import Outline, plain
from pipelines.statistics.points import Array
from pipelines.statistics.scores import Scores
from pipelines.statistics.truth import open_truth, truth_of

#: Of what is kept; another one is computed anew.
_FORMAT = 1
_MEMORY = 2**26


def run_summary(run: Path) -> Mapping[str, Any] | None:
    """Statistics of the sealed ensemble of a run; None while it is not sealed.

    They are read from ``report/statistics.json`` where the seal and the truth are those of which
    it was made, else computed in bounded memory and kept there, or in memory where nothing may be
    written.

    Args:
        run: The run directory; its truth, if any, is ``truth.h5`` or ``truth.zarr``.

    Returns:
        ``members``, how many are valid; ``truth``, the name of the file or None; ``arrays``: for
        each its ``units``, scores, ``rank_histogram``, ``series`` and ``map``.

    Raises:
        EnsembleError: The ensemble or the truth cannot be read, or do not fit.
    """
    layout = read_layout(run / "ensemble.zarr")
    if not layout.manifest.exists():
        return None
    key = _key(layout, truth_of(run))
    kept = run / "report" / "statistics.json"
    try:
        record = json.loads(kept.read_bytes())
        if record["key"] == key:
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or none of ours: it is made anew
    return _computed(run, key)


@lru_cache(maxsize=4)
def _computed(run: Path, key: str) -> Mapping[str, Any]:
    file, layout = truth_of(run), read_layout(run / "ensemble.zarr")
    with ExitStack() as stack:
        truth = stack.enter_context(open_truth(file, layout.path)) if file else {}
        record = {"key": key, "truth": file and file.name, **summarize(layout, truth)}
    try:
        (run / "report").mkdir(exist_ok=True)
        write_atomic(run / "report" / "statistics.json", json.dumps(record).encode())
    except OSError:
        pass  # who may only read the run sees its statistics all the same
    return record


def _key(layout: Layout, truth: Path | None) -> str:
    """What the statistics are made of: the manifest has the digest of every shard."""
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    with reported(f"reading {layout.manifest}"):
        digest.update(layout.manifest.read_bytes())
        if truth is not None:
            found = [truth, *sorted(truth.rglob("*"))]
            digest.update(repr([(f.name, *_stamp(f)) for f in found]).encode())
    return digest.hexdigest()


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def summarize(
    layout: Layout,
    truth: Mapping[str, Sliceable],
    memory: int = _MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of all arrays, and of each a series and a map, as plain values.

    Args:
        layout: A collected ensemble.
        truth: For arrays by name, values of one member's shape.
        memory: Bytes for the members in work.
        progress: Called with the number of chunks done and of all.

    Raises:
        EnsembleError: No member is valid, a shard cannot be read, or the truth does not fit.
    """
    check_truth(layout, truth)
    members = valid_members(layout)
    whole = Pass(layout, members, truth, np.empty(0), memory, progress)
    arrays: dict[str, Any] = {}
    for spec in layout.arrays.values():
        outline = Outline(spec)
        scores = whole.over(spec, outline)
        coordinate = None if outline.along is None else _coordinate(layout, spec, outline.along)
        arrays[spec.name] = {
            "units": spec.units,
            **_told(scores),
            **outline.found(coordinate),
        }
    return {"members": len(members), "arrays": arrays}


def _told(scores: Scores) -> dict[str, Any]:
    values = {name: plain(value) for name, value in scores.values().items()}
    histogram = scores.histogram.tolist() if scores.scored else None
    return {"points": scores.points, **values, "rank_histogram": histogram}


def _coordinate(layout: Layout, spec: ArraySpec, axis: int) -> Array | None:
    """The coordinate along an axis, where the store has one of numbers."""
    name = spec.dims[axis]
    if not (layout.path / name / "zarr.json").exists() or name in layout.arrays:
        return None
    import zarr

    with reported(f"reading {layout.path / name}"):
        found = zarr.open_array(layout.path, path=name, mode="r")[:]
    numbers = np.issubdtype(np.asarray(found).dtype, np.number)
    return np.asarray(found, np.float64) if numbers else None
