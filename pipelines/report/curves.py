"""Metrics of the members of a stage on common bins of steps, and the band that they fill."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.stage import Stage
from pipelines.tracking import Row, read_metrics

Array = NDArray[np.float64]

#: Points of a curve: as many as a laptop's screen can tell apart, and few enough for a page.
BINS = 160
#: From so many members on there is a band; it leaves out a tenth of them on each side.
_BAND_MEMBERS, _BAND = 4, (0.1, 0.5, 0.9)
_WANTED = ("loss", "valid")
_MOST_METRICS = 4
_NOT_DRAWN = ("step", "attempt", "time")


@dataclass(frozen=True)
class Curves:
    """One metric of the members of a stage.

    Attributes:
        metric: Its name.
        steps: The middle of each bin of steps, (bins,), ascending.
        members: Each member's mean in each bin, (bins,), NaN where it has none.
        strange: How many values of each member were NaN or infinite, of those that had any.
    """

    metric: str
    steps: Array
    members: Mapping[str, Array]
    strange: Mapping[str, int]

    def band(self) -> tuple[Array, Array, Array] | None:
        """The 10th, 50th and 90th percentile of the members, each (bins,); None of a few."""
        if len(self.members) < _BAND_MEMBERS:
            return None
        low, middle, high = np.nanquantile(np.stack(list(self.members.values())), _BAND, axis=0)
        return low, middle, high


def stage_curves(stage: Stage) -> list[Curves]:
    """The losses that the members of a stage have logged so far, from what counts of their logs.

    They are what is named ``loss`` or ``validation`` or the like; where nothing is, the first
    number of a row.

    Raises:
        MetricsError: A log is none.
    """
    logs = {
        member.name: read_metrics(path)
        for member in stage
        if (path := member.directory / "metrics.jsonl").exists()
    }
    names = shown_metrics(row for rows in logs.values() for row in rows)
    found = (curves(name, {m: _series(rows, name) for m, rows in logs.items()}) for name in names)
    return [known for known in found if known is not None]


def shown_metrics(rows: Iterable[Row]) -> list[str]:
    """The names of what is drawn, of all that rows hold."""
    names: dict[str, None] = {}
    for row in rows:
        names |= {k: None for k, v in row.items() if _is_number(v) and k not in _NOT_DRAWN}
    wanted = [name for name in names if any(part in name.lower() for part in _WANTED)]
    return (wanted or list(names)[:1])[:_MOST_METRICS]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _series(rows: Sequence[Row], name: str) -> list[tuple[int, float]]:
    return [(int(row["step"] or 0), float(row[name] or 0)) for row in rows if _has(row, name)]


def _has(row: Row, name: str) -> bool:
    return name in row and _is_number(row[name])


def curves(
    metric: str, series: Mapping[str, Sequence[tuple[int, float]]], bins: int = BINS
) -> Curves | None:
    """Bring series of a metric to common bins; None where there is no finite value.

    Args:
        metric: Its name.
        series: Steps and values of each member.
        bins: The most bins.
    """
    finite = {
        name: np.array([pair for pair in pairs if math.isfinite(pair[1])])
        for name, pairs in series.items()
    }
    finite = {name: pairs for name, pairs in finite.items() if len(pairs)}
    if not finite:
        return None
    steps = np.unique(np.concatenate([pairs[:, 0] for pairs in finite.values()]))
    groups = np.array_split(steps, min(bins, len(steps)))
    firsts = np.array([group[0] for group in groups])
    strange = {name: len(pairs) - len(finite.get(name, ())) for name, pairs in series.items()}
    return Curves(
        metric,
        np.array([group.mean() for group in groups]),
        {name: _binned(pairs, firsts) for name, pairs in finite.items()},
        {name: count for name, count in strange.items() if count},
    )


def _binned(pairs: Array, firsts: Array) -> Array:
    """Mean of the values (n, 2) in each bin, given the bins' first steps (bins,)."""
    places = np.searchsorted(firsts, pairs[:, 0], side="right") - 1
    counts = np.bincount(places, minlength=len(firsts)).astype(float)
    sums = np.bincount(places, weights=pairs[:, 1], minlength=len(firsts))
    means: Array = np.divide(sums, counts, out=np.full(len(firsts), np.nan), where=counts > 0)
    return means
