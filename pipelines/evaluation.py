"""How good an ensemble is: errors, spread, and whether the two agree.

Members are the first axis. What needs all members of a point at once reads the ensemble block by
block along the second axis, so any array that can be sliced will do, a Zarr array on disk too. For
all statistics of a stored ensemble in one pass see :mod:`pipelines.statistics`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.statistics.points import crps_of_sorted

Array = NDArray[np.float64]
_BLOCK_BYTES = 2**26


class Members(Protocol):
    """What can be sliced like an array of shape (members, ...): NumPy's, Zarr's, h5py's."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class Moments:
    """Mean over members and spread: the standard deviation over members, both ``(*)``."""

    mean: Array
    spread: Array


def rmse(estimate: ArrayLike, truth: ArrayLike) -> float:
    r"""Root mean squared error over all points, :math:`\sqrt{\overline{(x - y)^2}}`."""
    difference = np.asarray(estimate, np.float64) - np.asarray(truth, np.float64)
    return float(np.sqrt(np.mean(np.square(difference))))


def ensemble_mean_spread(members: Iterable[ArrayLike]) -> Moments:
    r"""Mean and spread over members, one member in memory at a time.

    Welford's recurrence in float64; the spread divides by :math:`M - 1` and is zero for one
    member.

    Args:
        members: Each :math:`(*)`; an array of shape (members, \*) is read member by member.

    Raises:
        ValueError: There are no members.

    References:
        | Note on a Method for Calculating Corrected Sums of Squares and Products (Welford, 1962)
    """
    mean, squares, count = np.zeros(()), np.zeros(()), 0
    for member in members:
        value = np.asarray(member, np.float64)
        count += 1
        change = value - mean
        mean = mean + change / count
        squares = squares + change * (value - mean)
    if not count:
        raise ValueError("an ensemble without members has neither mean nor spread")
    return Moments(mean, np.sqrt(squares / max(count - 1, 1)))


def crps(members: Members, truth: ArrayLike, fair: bool = True) -> float:
    r"""Continuous ranked probability score, averaged over points; the unit is the variable's.

    .. math:: \mathrm{CRPS} = \frac{1}{M} \sum_i |x_i - y| - \frac{1}{2 D} \sum_{i,j} |x_i - x_j|

    with :math:`D = M (M - 1)` for the fair score, whose expectation is that of infinitely many
    members, and :math:`D = M^2` for the score of the empirical distribution itself. The double
    sum is taken over sorted members, :math:`\sum_{i,j} |x_i - x_j| = 2 \sum_i (2i - M - 1)
    x_{(i)}`.

    Args:
        members: :math:`(M, *)`.
        truth: :math:`(*)`.
        fair: Which of the two.

    Raises:
        ValueError: Shapes differ, values are not finite, or the fair score has one member.

    References:
        | Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007)
        | Fair scores for ensemble forecasts (Ferro, 2014)
    """
    count = members.shape[0]
    if fair and count < 2:
        raise ValueError("the fair CRPS needs two members; use fair=False for one")
    total, points = 0.0, 0
    for block, y in _blocks(members, truth):
        ascending = np.sort(np.moveaxis(block, 0, -1), axis=-1)
        total += float(crps_of_sorted(ascending, y, fair).sum())
        points += y.size
    return total / points


def rank_histogram(
    members: Members, truth: ArrayLike, rng: np.random.Generator
) -> NDArray[np.int64]:
    r"""How often the truth has each rank among the members: flat where they are exchangeable.

    A U shape means too little spread, a dome too much, a slope a bias. Ties are broken at random.

    Args:
        members: :math:`(M, *)`.
        truth: :math:`(*)`.
        rng: Breaks the ties.

    Returns:
        Counts of the ranks 0 to :math:`M`, :math:`(M + 1)`, that add up to the number of points.

    References:
        | Interpretation of Rank Histograms for Verifying Ensemble Forecasts (Hamill, 2001)
    """
    counts = np.zeros(members.shape[0] + 1, np.int64)
    for block, y in _blocks(members, truth):
        ties = (block == y).sum(axis=0)
        ranks = (block < y).sum(axis=0) + rng.integers(0, ties, endpoint=True)
        counts += np.bincount(ranks.ravel(), minlength=counts.size)
    return counts


def spread_error_ratio(members: Members, truth: ArrayLike) -> float:
    r"""Spread over error, one for a reliable ensemble, below one for an overconfident one.

    .. math:: \sqrt{\frac{M + 1}{M}} \;
        \frac{\sqrt{\overline{s^2}}}{\mathrm{RMSE}(\bar x, y)}

    with :math:`s^2` the variance over members (:math:`M - 1` in the denominator). The first
    factor is what the finite ensemble adds to the error of its mean.

    Args:
        members: :math:`(M, *)`, two at least.
        truth: :math:`(*)`.

    Raises:
        ValueError: Shapes differ, values are not finite, or there is one member.

    References:
        | Why Should Ensemble Spread Match the RMSE of the Ensemble Mean? (Fortin et al., 2014)
    """
    count = members.shape[0]
    if count < 2:
        raise ValueError("one member has no spread; the ratio needs two")
    variance, squared_error = 0.0, 0.0
    for block, y in _blocks(members, truth):
        variance += float(block.var(axis=0, ddof=1).sum())
        squared_error += float(np.square(block.mean(axis=0) - y).sum())
    if squared_error == 0:
        return np.inf if variance else np.nan
    return float(np.sqrt((count + 1) / count * variance / squared_error))


def residual_std(simulated: ArrayLike, observed: ArrayLike) -> float:
    r"""Standard deviation of :math:`A(x) - y` over what was observed.

    A posterior sample that fits the observation neither too loosely nor too tightly gives the
    standard deviation of the observation noise.

    Args:
        simulated: :math:`A(x)`, the observation operator applied to a sample, :math:`(*)`.
        observed: :math:`y`, :math:`(*)`; NaN where nothing was observed.

    Raises:
        ValueError: Nothing was observed.
    """
    residual = np.asarray(simulated, np.float64) - np.asarray(observed, np.float64)
    seen = residual[np.isfinite(np.asarray(observed, np.float64))]
    if not seen.size:
        raise ValueError("every observation is NaN: there is no residual")
    return float(seen.std())


def _blocks(members: Members, truth: ArrayLike) -> Iterator[tuple[Array, Array]]:
    """Yield members and truth for stretches of points that fit in memory together."""
    y = np.asarray(truth, np.float64)
    if members.shape[1:] != y.shape or not members.shape[0]:
        raise ValueError(f"members {tuple(members.shape)} do not fit the truth {y.shape}")
    if y.ndim == 0:
        y, edges = y[None], [(0, 1)]
    else:
        row = 8 * members.shape[0] * max(1, int(np.prod(y.shape[1:])))
        step = max(1, _BLOCK_BYTES // row)
        edges = [(start, min(start + step, y.shape[0])) for start in range(0, y.shape[0], step)]
    for start, stop in edges:
        block = np.asarray(members[:] if len(members.shape) == 1 else members[:, start:stop])
        block = block.astype(np.float64).reshape(len(block), *y[start:stop].shape)
        if not np.isfinite(block).all():
            raise ValueError(
                "members hold NaN or infinity: leave out those that `valid` marks as missing"
            )
        yield block, y[start:stop]
