"""Days out of half hours: units, gaps, and what became of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.fluxes.tables import Array

# umol of carbon dioxide in a second, to grams of carbon in a day.
GRAMS_OF_CARBON = 12.011e-6 * 86400
MEGAJOULES = 86400e-6


@dataclass(frozen=True)
class Filled:
    """A variable on its grid, and how complete it is.

    Attributes:
        values: (days, steps); NaN in gaps that are too long to fill.
        missing: Steps without a value in the file.
        filled: How many of them were interpolated.
        lost_days: Days on which a step is still missing.
    """

    values: Array
    missing: int
    filled: int
    lost_days: int


def fill_short_gaps(values: Array, longest: int) -> Filled:
    """Interpolate linearly over gaps of at most ``longest`` steps between two values.

    Args:
        values: (days, steps).
        longest: Steps; 0 fills nothing.
    """
    flat = values.ravel().copy()
    gap = np.isnan(flat)
    known = np.flatnonzero(~gap)
    short = np.zeros(len(flat), bool)
    for before, after in _gaps(known):
        if after - before - 1 <= longest:
            short[before + 1 : after] = True
    if short.any():
        flat[short] = np.interp(np.flatnonzero(short), known, flat[known])
    whole = flat.reshape(values.shape)
    lost = int(np.isnan(whole).any(axis=1).sum())
    return Filled(whole, int(gap.sum()), int(short.sum()), lost)


def _gaps(known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of neighboring values that have a gap between them."""
    wide = np.flatnonzero(np.diff(known) > 1)
    return np.stack([known[wide], known[wide + 1]], axis=1)


def good_share(flags: Array, measured: bool) -> Array:
    """Share of good data in each day, (days).

    Args:
        flags: (days, steps): numbers where something was measured, or FLUXNET's flags, of which
            0 (measured) and 1 (filled well) are good; daily files have the share itself.
        measured: Which of both.
    """
    if measured:
        return np.asarray(np.isfinite(flags).mean(axis=1))
    if flags.shape[1] == 1:
        return flags[:, 0]
    return np.asarray((flags <= 1).mean(axis=1))


def radiation_noon(radiation: Array) -> float:
    """Hour of the day around which radiation is symmetric; NaN for daily data and in the dark."""
    each = radiation.shape[1]
    mean = np.nan_to_num(radiation).mean(axis=0)
    if each < 24 or mean.sum() <= 0:
        return float("nan")
    hours = (np.arange(each) + 0.5) * 24 / each
    return float((hours * mean).sum() / mean.sum())
