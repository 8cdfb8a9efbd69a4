r"""What is computed at each point from its members in ascending order.

Members are the last axis here, :math:`x_{(1)} \le \dots \le x_{(M)}`: one sort serves quantiles,
scores and ranks, and is twice as fast along contiguous values.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def quantiles_of_sorted(members: Array, levels: ArrayLike) -> Array:
    r"""Quantiles, linear between order statistics: at level q, the place :math:`(M - 1) q`.

    Args:
        members: Ascending, :math:`(*, M)`; with a NaN among them the quantiles are NaN.
        levels: :math:`(Q)`, each from 0 to 1.

    Returns:
        :math:`(Q, *)`.

    References:
        | Sample Quantiles in Statistical Packages, definition 7 (Hyndman & Fan, 1996)
    """
    places = np.asarray(levels, np.float64) * (members.shape[-1] - 1)
    below = np.floor(places).astype(int)
    above = np.ceil(places).astype(int)
    low, high = members[..., below], members[..., above]
    weight = places - below
    with np.errstate(invalid="ignore"):
        # Not low + weight (high - low): of the largest numbers of both signs that overflows.
        between = np.clip(low * (1 - weight) + high * weight, low, high)
    found = np.where(low == high, low, between)
    found[np.isnan(members[..., -1])] = np.nan  # a sort puts NaN last
    return np.moveaxis(found, -1, 0)


def crps_of_sorted(members: Array, truth: Array, fair: bool = True) -> Array:
    r"""Continuous ranked probability score; see :func:`pipelines.evaluation.crps`.

    Args:
        members: Ascending, :math:`(*, M)`.
        truth: :math:`(*)`.
        fair: Whether for infinitely many members, which takes two at least.

    Returns:
        :math:`(*)`.
    """
    count = members.shape[-1]
    pairs = count * (count - 1 if fair else count)
    weights = (2.0 * np.arange(1, count + 1) - count - 1) / pairs
    error = members - truth[..., None]
    np.abs(error, out=error)
    score: Array = error.mean(axis=-1) - members @ weights
    return score


def ranks(members: Array, truth: Array, draws: Array) -> NDArray[np.int64]:
    r"""Rank of the truth among members in any order, 0 to :math:`M`; ties are broken by ``draws``.

    Args:
        members: :math:`(*, M)`.
        truth: :math:`(*)`.
        draws: Uniform in :math:`[0, 1)`, :math:`(*)`.

    Returns:
        :math:`(*)`.
    """
    below = np.count_nonzero(members < truth[..., None], axis=-1)
    ties = np.count_nonzero(members == truth[..., None], axis=-1)
    rank: NDArray[np.int64] = below + np.floor(draws * (ties + 1)).astype(np.int64)
    return rank
