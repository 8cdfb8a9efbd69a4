"""From the times that a file names to a grid of whole days, with nothing lost in silence."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.fluxes.columns import Label
from pipelines.fluxes.records import FluxError
from pipelines.fluxes.tables import Array

Times = NDArray[np.datetime64]
MINUTES_A_DAY = 1440
# Above this share, times that fit no grid are not slips of single rows.
_OFF_GRID = 0.01


@dataclass(frozen=True)
class Timeline:
    """Where the rows of a file lie on a regular grid of whole days.

    Attributes:
        first: The first day.
        step: Minutes from one row to the next.
        rows: Row of the file at each step of the grid, -1 where there is none, (days, steps).
        duplicated: Rows that repeat a time; the first of them counts.
        off_grid: Rows that lie between the steps and are left out.
        missing: Steps between the first and the last row that have none.
        daylight_saving: An hour is missing in spring and another one is double in autumn.
    """

    first: np.datetime64
    step: int
    rows: NDArray[np.int64]
    duplicated: int
    off_grid: int
    missing: int
    daylight_saving: bool

    @property
    def days(self) -> Times:
        """The calendar days."""
        return self.first + np.arange(len(self.rows))

    def place(self, values: Array) -> Array:
        """Values of the rows of the file on the grid, NaN where there is no row."""
        return np.where(self.rows >= 0, values[self.rows], np.nan)


def parse_times(values: NDArray[Any], place: str) -> Times:
    """Times to the minute, from ``datetime64``, FLUXNET's digits, or ISO 8601.

    Args:
        values: ``YYYYMMDDHHMM`` or ``YYYYMMDD``, as numbers or text; ISO text; ``datetime64``.
            Where offsets from UTC change between the rows, as with daylight saving, the smallest
            one is local standard time.
        place: For messages.

    Raises:
        FluxError: A time is something else.
    """
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            raise FluxError(f"{place}: row {int(np.isnat(values).argmax()) + 1} has no time")
        return values.astype("datetime64[m]")
    texts = values.astype(np.int64).astype(str) if values.dtype.kind == "f" else values.astype(str)
    digits = set(np.char.str_len(texts).tolist()) <= {8, 12} and np.char.isdigit(texts).all()
    read = _from_digits if digits else _from_iso
    try:
        return read(texts)
    except ValueError as error:
        raise FluxError(
            f"{place}: expected times as YYYYMMDDHHMM, YYYYMMDD or ISO 8601: {error}"
        ) from error


def _from_digits(texts: NDArray[np.str_]) -> Times:
    def iso(text: str) -> str:
        clock = f"T{text[8:10]}:{text[10:12]}" if len(text) == 12 else ""
        return f"{text[:4]}-{text[4:6]}-{text[6:8]}{clock}"

    return np.array([iso(text) for text in texts.tolist()], "datetime64[m]")


def _from_iso(texts: NDArray[np.str_]) -> Times:
    read = [datetime.fromisoformat(text) for text in texts.tolist()]
    offsets = [moment.utcoffset() for moment in read]
    known = [offset for offset in offsets if offset is not None]
    if known and len(known) < len(read):
        raise ValueError("some have an offset from UTC and some have none")
    standard = min(known, default=timedelta())
    plain = [
        moment.replace(tzinfo=None) - ((offset or timedelta()) - standard if known else timedelta())
        for moment, offset in zip(read, offsets, strict=True)
    ]
    return np.array(plain, "datetime64[m]")


def lay_out(times: Times, label: Label, shift_hours: float, place: str) -> Timeline:
    """Lay rows on a grid of whole days.

    Args:
        times: Of the rows, in any order.
        label: Which moment of its interval a time names.
        shift_hours: To add to reach local standard time, e.g. 1 where the file is in UTC and the
            site in central Europe.
        place: For messages.

    Raises:
        FluxError: The times have no regular step, or too many lie between the steps.
    """
    step = _step(times, place)
    lead = {"start": 0, "middle": step // 2, "end": step}[label]
    starts = times - np.timedelta64(lead, "m") + np.timedelta64(round(60 * shift_hours), "m")
    first = starts.min().astype("datetime64[D]")
    minutes = (starts - first).astype(np.int64)
    on_grid = minutes % step == 0
    if (~on_grid).mean() > _OFF_GRID:
        wrong = int(np.argmin(on_grid))
        raise FluxError(
            f"{place}: row {wrong + 1} starts at {starts[wrong]}, which is on no grid of {step} "
            f"minutes, as are {int((~on_grid).sum())} of {len(starts)}; are the times those of the "
            f"{label} of each interval?"
        )
    kept = np.flatnonzero(on_grid)
    slots, where = np.unique(minutes[kept] // step, return_index=True)
    each = MINUTES_A_DAY // step
    rows = np.full((slots[-1] // each + 1) * each, -1)
    rows[slots] = kept[where]
    repeated = np.delete(minutes[kept], where) // step
    absent = np.setdiff1d(np.arange(slots[0], slots[-1]), slots)
    return Timeline(
        first,
        step,
        rows.reshape(-1, each),
        duplicated=len(repeated),
        off_grid=int((~on_grid).sum()),
        missing=len(absent),
        daylight_saving=_saves_daylight(first, step, absent, repeated),
    )


def _step(times: Times, place: str) -> int:
    gaps = np.diff(np.unique(times)).astype(np.int64)
    step = int(np.median(gaps)) if len(gaps) else 0
    if step < 1 or MINUTES_A_DAY % step:
        raise FluxError(
            f"{place}: expected rows every half hour, hour or day, found a step of {step} minutes"
        )
    return step


def _saves_daylight(
    first: np.datetime64, step: int, absent: NDArray[np.int64], repeated: NDArray[np.int64]
) -> bool:
    """Whether just an hour a year is missing in one season and one is double in another."""

    def hours(slots: NDArray[np.int64]) -> set[tuple[int, int]]:
        moments = first + (slots * step).astype("timedelta64[m]")
        months = moments.astype("datetime64[M]").astype(int) % 12 + 1
        clock = (moments - moments.astype("datetime64[D]")).astype("timedelta64[h]").astype(int)
        return set(zip(months.tolist(), clock.tolist(), strict=True))

    if step > 60 or not len(absent) or not len(repeated):
        return False
    lost, twice = hours(absent), hours(repeated)
    north = any(m in (3, 4) and h <= 3 for m, h in lost) and all(m in (10, 11) for m, _ in twice)
    south = any(m in (9, 10) and h <= 3 for m, h in lost) and all(m in (3, 4) for m, _ in twice)
    return north or south
