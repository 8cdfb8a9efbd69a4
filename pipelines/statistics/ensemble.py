"""One pass over an ensemble, a stretch of points of all its members at a time."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.records.files import fsync_directory, write_atomic
from pipelines.ensemble import ArraySpec, EnsembleError, Layout, read_layout
from pipelines.ensemble.documents import reported
from pipelines.statistics.fields import Discarded, Fields, Kept, Stored
from pipelines.statistics.onepass import Pass, Sliceable, check_truth, valid_members
from pipelines.statistics.points import Array
from pipelines.statistics.scores import Scores

if TYPE_CHECKING:
    import xarray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def ensemble_statistics(
    path: Path,
    truth: Mapping[str, Sliceable] | None = None,
    quantiles: Sequence[float] = QUANTILES,
    out: Path | None = None,
    fields: bool = True,
    memory: int = 2**28,
    progress: Callable[[int, int], None] | None = None,
) -> "xarray.Dataset":
    r"""Mean, spread and quantiles of every point, and scores over all, of the valid members.

    Each shard is read once, in stretches of points across all members; where it is compressed and
    many members share the memory, chunks are read as often as they have stretches. All is
    computed in float64. Beyond the rounding of sums the results do not depend on ``memory``.

    Args:
        path: A collected ensemble; members that ``valid`` does not mark are left out.
        truth: For arrays by name, values of one member's shape; NaN where it is unknown.
        quantiles: Levels from 0 to 1.
        out: Write to a new Zarr store here, and return that, opened lazily.
        fields: Without ``out``: keep what each point has, (2 + Q) members in size, in memory.
        memory: Bytes for a stretch; besides, there are the results of one inner chunk.
        progress: Called with the number of chunks done and of all.

    Returns:
        For an array ``u``: ``u_mean``, ``u_spread``, ``u_quantile`` along its dimensions (NaN where
        a member is); ``u_spread_rms``, ``u_points``, and where there is a truth ``u_rmse`` of the
        mean, ``u_crps`` (fair), ``u_spread_error_ratio`` and ``u_rank_histogram``, over the points
        where truth and members are finite. Definitions are those of :mod:`pipelines.evaluation`.

    Raises:
        EnsembleError: No member is valid, a shard cannot be read, the truth does not fit,
            quantiles are no levels, or there is something at ``out``.
    """
    layout = read_layout(path)
    levels = _levels(quantiles if fields or out else ())
    check_truth(layout, truth or {})
    members = valid_members(layout)
    with _staged(out) as store:
        whole = Pass(layout, members, truth or {}, levels, memory, progress)
        variables: dict[str, Any] = {}
        for spec in layout.arrays.values():
            kept = _destination(spec, len(levels), store, fields)
            scores = whole.over(spec, kept)
            variables |= kept.finish() | _described(spec, scores)
        dataset = _labelled(layout, variables, levels, members)
        if store is None or out is None:
            return dataset
        dataset.to_zarr(store, mode="a", zarr_format=3, consolidated=False)
        _publish(store, out)
    return _open(out)


def _destination(spec: ArraySpec, levels: int, store: Path | None, fields: bool) -> Fields:
    if store is not None and spec.shape:
        return Stored(spec, levels, store)
    return Kept(spec, levels) if fields or store is not None else Discarded()


def _described(spec: ArraySpec, scores: Scores) -> dict[str, Any]:
    """Label the scores of one array."""
    called = {"units": "1", "long_name": f"points of {spec.name} that the scores are of"}
    found: dict[str, Any] = {f"{spec.name}_points": ((), scores.points, called)}
    for name, value in scores.values().items():
        units = "1" if name == "spread_error_ratio" else spec.units
        called = {"units": units, "long_name": f"{name.replace('_', ' ')} of {spec.name}"}
        found[f"{spec.name}_{name}"] = ((), value, called)
    if scores.scored:
        called = {"units": "1", "long_name": f"points of each rank of the truth in {spec.name}"}
        found[f"{spec.name}_rank_histogram"] = (("rank",), scores.histogram, called)
    return found


def _labelled(
    layout: Layout, variables: Mapping[str, Any], levels: Array, members: Sequence[int]
) -> "xarray.Dataset":
    import xarray

    called = {"units": "1", "long_name": "quantile level"}
    with _open(layout.path) as source:
        used = {dim for spec in layout.arrays.values() for dim in spec.dims}
        coordinates: dict[Any, Any] = {n: source[n].load() for n in source.coords if n in used}
        attributes = {k: v for k, v in source.attrs.items() if k in ("title", "Conventions")}
    coordinates["quantile"] = ("quantile", levels, called)
    attributes |= {"config_digest": layout.config_digest, "members": list(members)}
    return xarray.Dataset(variables, coordinates, attributes)


def _levels(quantiles: Sequence[float]) -> Array:
    levels = np.asarray(quantiles, np.float64)
    if not (levels.ndim == 1 and np.all((levels >= 0) & (levels <= 1) & np.isfinite(levels))):
        raise EnsembleError(f"quantiles {levels.tolist()}: expected levels from 0 to 1")
    return levels


def _open(path: Path) -> "xarray.Dataset":
    import xarray

    # Without chunks xarray reads on its own when values are asked for; with them it wants dask.
    found: xarray.Dataset = xarray.open_zarr(path, chunks=None)
    return found


@contextmanager
def _staged(out: Path | None) -> Iterator[Path | None]:
    """A directory beside ``out`` that is gone after the block, unless it was renamed."""
    if out is None:
        yield None
        return
    if out.exists():
        raise EnsembleError(f"{out}: there is something already; remove it or name another place")
    with reported(f"writing {out}"):
        store = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
        try:
            yield store
        finally:
            shutil.rmtree(store, ignore_errors=True)


def _publish(store: Path, out: Path) -> None:
    from pipelines.ensemble.encoding import consolidated

    metadata = [store / "zarr.json", *store.glob("*/zarr.json")]
    files = {str(file.relative_to(store)): file.read_bytes() for file in metadata}
    write_atomic(store / "zarr.json", consolidated(files)["zarr.json"])
    store.chmod(0o755)
    store.rename(out)
    fsync_directory(out.parent)
