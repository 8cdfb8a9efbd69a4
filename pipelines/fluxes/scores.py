"""How good predicted fluxes are: by site over its days, over sites, and over seeds.

Predicted and observed are (S, T, F), sites by days by fluxes; days on which either is NaN do not
count. A score that nothing can be said of (no such day, an observed flux that never varies) is NaN.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

DAYS_A_YEAR = 365.25
# Below this share of its mean, a deviation is rounding.
_ROUNDING = 1e-12


def nse(predicted: Array, observed: Array) -> Array:
    r"""Nash-Sutcliffe efficiency of each site and flux, (S, F).

    .. math:: 1 - \sum_t (p_t - o_t)^2 / \sum_t (o_t - \bar o)^2

    1 is the truth, 0 is as good as the observed mean.

    References:
        Nash & Sutcliffe 1970, doi:10.1016/0022-1694(70)90255-6.
    """
    p, o = _paired(predicted, observed)
    variance = _variance(o)
    return 1 - _ratio(_mean((p - o) ** 2), variance)


def kge(predicted: Array, observed: Array) -> Array:
    r"""Kling-Gupta efficiency of each site and flux, (S, F).

    .. math:: 1 - \sqrt{(r - 1)^2 + (\sigma_p / \sigma_o - 1)^2 + (\bar p / \bar o - 1)^2}

    The correlation with a constant prediction counts as 0. A flux whose mean is near zero, such as
    the net one of an old forest, has a low efficiency for a small bias.

    References:
        Gupta et al. 2009, doi:10.1016/j.jhydrol.2009.08.003.
    """
    p, o = _paired(predicted, observed)
    sd_p, sd_o = np.sqrt(_variance(p)), np.sqrt(_variance(o))
    covariance = _mean((p - _mean(p)[:, None]) * (o - _mean(o)[:, None]))
    varies = sd_p > 0
    correlation = np.where(varies, _ratio(covariance, sd_p * sd_o), 0.0)
    parts = correlation - 1, _ratio(sd_p, sd_o) - 1, _ratio(_mean(p), _mean(o)) - 1
    return 1 - np.sqrt(sum(np.square(part) for part in parts))


def rmse(predicted: Array, observed: Array) -> Array:
    """Root mean squared error of each site and flux, (S, F), in the unit of the flux."""
    p, o = _paired(predicted, observed)
    return np.sqrt(_mean((p - o) ** 2))


def bias(predicted: Array, observed: Array) -> Array:
    """Mean of predicted minus observed of each site and flux, (S, F), in the unit of the flux."""
    p, o = _paired(predicted, observed)
    return _mean(p - o)


SCORES: dict[str, Callable[[Array, Array], Array]] = {
    "nse": nse,
    "kge": kge,
    "rmse": rmse,
    "bias": bias,
}


def skill(error: Array, reference: Array) -> Array:
    """How much of a reference's mean squared error is saved: 1 is all of it, below 0 is worse."""
    return 1 - _ratio(error, reference)


def drift(predicted: Array, observed: Array, exchanged: Array, ends: Sequence[int]) -> Array:
    r"""Error of a sum since the first day, over what was exchanged meanwhile: (S, len(ends)).

    .. math:: \sum_{t < T_k} (p_t - o_t) \Big/ \sum_{t < T_k} |e_t|

    Args:
        predicted: (S, T), without gaps.
        observed: (S, T).
        exchanged: (S, T); a flux that changes its sign counts by its size.
        ends: Days :math:`T_k` from the first on.
    """
    last = np.asarray(ends) - 1
    error, passed = (predicted - observed).cumsum(axis=1), np.abs(exchanged).cumsum(axis=1)
    return _ratio(error[:, last], passed[:, last])


class Spread(NamedTuple):
    """A score over sites: median, 10th and 90th percentile, of the shape that sites had less."""

    median: Array
    p10: Array
    p90: Array


def over_sites(scores: ArrayLike) -> Spread:
    """Median and percentiles over the sites, the first axis, that have a score."""
    values = np.asarray(scores, np.float64)
    known = np.isfinite(values).any(axis=0)
    found = np.full((3, *values.shape[1:]), np.nan)
    found[:, known] = np.nanquantile(values[:, known], (0.5, 0.1, 0.9), axis=0)
    return Spread(*found)


class Interval(NamedTuple):
    """A mean and half the width of its confidence interval, NaN for a single value."""

    mean: float
    half: float


def over_seeds(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of a score over seeds with Student's interval; values that are NaN do not count."""
    from scipy.special import stdtrit  # takes longer to import than all else here

    known = np.asarray(values, np.float64).ravel()
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return Interval(float(known[0]) if len(known) else np.nan, np.nan)
    quantile = float(stdtrit(len(known) - 1, (1 + level) / 2))
    return Interval(float(known.mean()), quantile * float(known.std(ddof=1)) / len(known) ** 0.5)


def _paired(predicted: Array, observed: Array) -> tuple[Array, Array]:
    both = np.isfinite(predicted) & np.isfinite(observed)
    return np.where(both, predicted, np.nan), np.where(both, observed, np.nan)


def _mean(values: Array) -> Array:
    """Mean over days that are known, NaN where there are none: (S, F)."""
    return _ratio(np.nansum(values, axis=1), np.isfinite(values).sum(axis=1).astype(np.float64))


def _variance(values: Array) -> Array:
    mean = _mean(values)
    found = _mean((values - mean[:, None]) ** 2)
    return np.where(found > (_ROUNDING * mean) ** 2, found, np.where(np.isnan(found), np.nan, 0.0))


def _ratio(above: Array, below: Array) -> Array:
    empty = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    return np.asarray(np.divide(above, below, out=empty, where=below != 0))
