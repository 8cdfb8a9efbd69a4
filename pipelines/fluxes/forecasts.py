"""Forecasts of windows, and the two that know no model: climatology and persistence.

Windows are those of :func:`pipelines.fluxes.windows`: site and first day, (N, 2).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.fluxes.records import Array, Days, FluxRecords, day_of_year
from pipelines.fluxes.splits import Mask, windows

Windows = NDArray[np.int64]

_DAYS = 366


def forecast_windows(targets: Mask, context: int, horizon: int) -> Windows:
    """Windows whose horizons follow each other without a gap from the first day of a split on.

    Context may be any day, also one of training: a forecast knows the past.

    Raises:
        FluxError: No window fits.
    """
    offset = max(0, int(targets.any(axis=0).argmax()) - context)
    rest = targets[:, offset:]
    found = windows(rest, context, horizon, horizon, known=np.ones_like(rest))
    return np.asarray(found + np.array([0, offset]))


def cut(values: NDArray[Any], where: Windows, first: int, length: int) -> NDArray[Any]:
    """Days ``first`` to ``first + length`` of each window, of (S, T, ...): (N, length, ...)."""
    return np.asarray(values[where[:, :1], where[:, 1:] + first + np.arange(length)])


def on_days(forecasts: Array, where: Windows, context: int, shape: tuple[int, int]) -> Array:
    """Forecasts (N, horizon, F) on sites and days, (S, T, F); NaN where there is none."""
    days = where[:, 1:] + context + np.arange(forecasts.shape[1])
    found = np.full((*shape, forecasts.shape[-1]), np.nan)
    found[where[:, :1], days] = forecasts
    return found


def persistence(fluxes: Array, where: Windows, context: int, horizon: int) -> Array:
    """The last fluxes of the context, for all days of the horizon: (N, horizon, F).

    In a gap, each flux is the last one that is known; NaN where none is in the context.
    """
    past = cut(fluxes, where, 0, context)
    known = np.isfinite(past)
    last = np.where(known.any(axis=1), context - 1 - known[:, ::-1].argmax(axis=1), 0)
    return np.repeat(np.take_along_axis(past, last[:, None], axis=1), horizon, axis=1)


def lagged(fluxes: Array, days: int) -> Array:
    """The fluxes so many days before, (S, T, F): NaN on the first days and after gaps."""
    found = np.full_like(fluxes, np.nan)
    found[:, days:] = fluxes[:, :-days]
    return found


def climatology(records: FluxRecords, training: Mask, half_window: int = 7) -> Array:
    """Each site's own seasonal cycle, (S, T, F).

    It is the mean by day of the year, over a window of days around it, of the site's days for
    training on which the flux is known. A site that has none takes all of its record: this
    reference then knows what no forecast could, and is hard to beat. Days of the year without any
    data take the site's mean.

    Args:
        records: Of all sites.
        training: Days to learn from, (S, T).
        half_window: Days to each side.
    """
    among = np.where(training.any(axis=1, keepdims=True), training, True)
    return seasonal_cycle(records.fluxes, records.days, among, half_window)


def seasonal_cycle(values: Array, days: Days, training: Mask, half_window: int = 7) -> Array:
    """As :func:`climatology`, of any values (S, T, V); NaN where training knows nothing."""
    source = training[..., None] & np.isfinite(values)
    day = day_of_year(days).astype(np.int64) - 1
    sums, counts = np.zeros((2, _DAYS, *values[:, 0].shape))
    np.add.at(sums, day, np.where(source, values, 0.0).swapaxes(0, 1))
    np.add.at(counts, day, source.swapaxes(0, 1).astype(np.float64))
    around = range(-half_window, half_window + 1)
    total, count = (sum(np.roll(each, n, axis=0) for n in around) for each in (sums, counts))
    whole = np.full(sums.shape[1:], np.nan)
    np.divide(sums.sum(axis=0), counts.sum(axis=0), out=whole, where=counts.sum(axis=0) > 0)
    cycle = np.broadcast_to(whole, sums.shape).copy()
    np.divide(total, count, out=cycle, where=count > 0)
    return np.asarray(cycle[day].swapaxes(0, 1))
