"""What a page can show of an array of any size: its statistics along one axis, and on a slice.

Both are averages over bins where an axis is longer than a screen has points, so what is kept does
not grow with the ensemble.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.ensemble import ArraySpec
from pipelines.statistics.points import Array

#: Bins of a series, and of each side of a map, at most.
SERIES, MAP = 160, 96
#: Names of the axis along which a forecast loses its skill.
_TIMES = ("time", "lead", "lead_time", "step", "frame", "date", "day", "hour")


class Binned:
    """Sums over bins of one or two axes, of all of the other axes or at one index of each.

    Args:
        shape: Of a member.
        axes: Those that are kept, ascending.
        fixed: An index for each other axis, or None for all of it.
        most: Bins of an axis.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: tuple[int, ...],
        fixed: Mapping[int, int] | None,
        most: int,
    ) -> None:
        self._shape, self._axes, self._fixed = shape, axes, fixed
        self._sizes = [min(most, shape[axis]) for axis in axes]
        #: Of members: how many points, mean, variance; with a truth: how many, squared error.
        self._sums = np.zeros((5, *self._sizes))

    def add(self, place: tuple[slice, ...], terms: Array) -> None:
        """Add a chunk: ``terms``, (5, *chunk), where it lies."""
        for axis in reversed(range(len(place))):
            if axis in self._axes:
                continue
            if self._fixed is None:
                terms = terms.sum(axis=1 + axis)
                continue
            inside = self._fixed[axis] - place[axis].start
            if not 0 <= inside < terms.shape[1 + axis]:
                return
            terms = terms.take(inside, axis=1 + axis)
        bins = [
            np.arange(place[axis].start, place[axis].stop) * size // self._shape[axis]
            for axis, size in zip(self._axes, self._sizes, strict=True)
        ]
        index: Any = (slice(None), *np.ix_(*bins))
        np.add.at(self._sums, index, terms)

    def values(self) -> dict[str, Array]:
        """Mean, and root mean squares of the spread and the error; NaN where nothing is known."""
        count, mean, variance, known, error = self._sums
        with np.errstate(invalid="ignore"):
            found = {
                "mean": mean / count,
                "spread": np.sqrt(variance / count),
                "error": np.sqrt(error / known),
            }
        return found if known.any() else {k: v for k, v in found.items() if k != "error"}

    def middles(self, values: Array) -> Array:
        """The mean coordinate of each bin of the first axis, given those of its points."""
        bins = np.arange(len(values)) * self._sizes[0] // len(values)
        found: Array = np.bincount(bins, weights=values) / np.bincount(bins)
        return found


class Outline:
    """Takes the statistics of one array, each chunk once, and keeps a series and a map.

    The series runs along time, or along the one axis of an array that has but one; the map is of
    the last two axes, at the last time and the first index of any other axis.

    Args:
        spec: The array.
    """

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        shape, last = spec.shape, len(spec.shape) - 1
        long = [axis for axis, length in enumerate(shape) if length > 1]
        times = [axis for axis in long if spec.dims[axis].lower() in _TIMES]
        along = times[0] if times else long[0] if len(long) == 1 else None
        self.along = along
        self.at = {
            axis: shape[axis] - 1 if axis in times else 0 for axis in range(max(0, last - 1))
        }
        has_map = last >= 1 and min(shape[-2:]) > 1
        self._series = None if along is None else Binned(shape, (along,), None, SERIES)
        self._map = Binned(shape, (last - 1, last), self.at, MAP) if has_map else None

    def put(self, number: int, place: tuple[slice, ...], rows: Array, truth: Array | None) -> None:
        """Take a chunk."""
        mean, spread = rows[:2]
        finite = np.isfinite(spread)
        error = np.full_like(mean, np.nan) if truth is None else mean - truth
        known = finite & np.isfinite(error)
        terms = [finite, np.where(finite, mean, 0), np.where(finite, spread, 0) ** 2]
        terms += [known, np.where(known, error, 0) ** 2]
        whole = np.stack(terms).astype(np.float64).reshape(-1, *self.spec.inner)
        for binned in (self._series, self._map):
            if binned is not None:
                binned.add(place, whole)

    def finish(self) -> dict[str, Any]:
        """Nothing that a labelled dataset would have."""
        return {}

    def found(self, coordinate: Array | None) -> dict[str, Any]:
        """Series and map in plain values, null where there is none.

        Args:
            coordinate: Of the points along the series; default: their index.
        """
        return {"series": self._told_series(coordinate), "map": self._told_map()}

    def _told_series(self, coordinate: Array | None) -> dict[str, Any] | None:
        if self._series is None or self.along is None:
            return None
        values = np.arange(self.spec.shape[self.along]) if coordinate is None else coordinate
        whole = all(n == 1 for a, n in enumerate(self.spec.shape) if a != self.along)
        told = {"dim": self.spec.dims[self.along], "alone": whole}
        at = plain(self._series.middles(np.asarray(values, np.float64)))
        return told | {"at": at} | {k: plain(v) for k, v in self._series.values().items()}

    def _told_map(self) -> dict[str, Any] | None:
        if self._map is None:
            return None
        at = {self.spec.dims[axis]: index for axis, index in self.at.items()}
        told = {"dims": list(self.spec.dims[-2:]), "at": at}
        return told | {k: plain(v) for k, v in self._map.values().items()}


def plain(values: Any) -> Any:
    """Nested lists of numbers to six digits; None for what is not finite, as JSON has no NaN."""
    if np.ndim(values):
        return [plain(value) for value in values]
    return float(f"{values:.6g}") if np.isfinite(values) else None
