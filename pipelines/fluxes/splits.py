"""What is learned from and what is tested on: by site, by time, or on sites that are known a bit.

A split says of every site and day what it is for. Windows are cut inside it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.fluxes.records import Days, FluxError
from pipelines.seeds import derived_seed

Mask = NDArray[np.bool_]


class Split(NamedTuple):
    """Three disjoint masks over sites and days, (S, T)."""

    training: Mask
    validation: Mask
    test: Mask


def split_sites(sites: Sequence[str], days: Days, shares: tuple[float, float], seed: int) -> Split:
    """All days of some sites are for training, of others for validation, and of others for test.

    Args:
        sites: Names.
        days: Of the record.
        shares: Of the sites, for validation and for test; each gets one at least.
        seed: Decides which; by name, so the order of the sites does not matter.

    Raises:
        FluxError: No site would be left for training, or a share is not between 0 and 1.
    """
    groups = _site_groups(sites, shares, seed)
    every_day = np.ones(len(days), bool)
    return Split(*(np.outer(group, every_day) for group in groups))


def split_time(sites: Sequence[str], days: Days, validation: str, test: str) -> Split:
    """All sites are trained on until a day, validated on until another, and tested on after it.

    Args:
        sites: Names.
        days: Of the record.
        validation: First day for validation, as ``2019-01-01``.
        test: First day for test.

    Raises:
        FluxError: A part would be empty.
    """
    first, second = np.datetime64(validation), np.datetime64(test)
    parts = (days < first, (days >= first) & (days < second), days >= second)
    if not all(part.any() for part in parts):
        raise FluxError(
            f"the record from {days[0]} to {days[-1]}, cut on {first} and {second}, leaves a part "
            "empty; expected three parts, in this order"
        )
    every_site = np.ones(len(sites), bool)
    return Split(*(np.outer(every_site, part) for part in parts))


def split_dates(sites: Sequence[str], days: Days, train_until: str, test_from: str) -> Split:
    """As :func:`split_time`, told by the last day for training and the first one for test.

    The days between them are for validation.

    Raises:
        FluxError: A part would be empty.
    """
    validation = np.datetime64(train_until, "D") + 1
    return split_time(sites, days, str(validation), test_from)


def split_warm_sites(
    sites: Sequence[str], days: Days, shares: tuple[float, float], warm_until: str, seed: int
) -> Split:
    """As :func:`split_sites`, but the days of held-out sites before ``warm_until`` are trained on.

    It asks how much a short record of a new site is worth: the sites, and the days tested, are
    those of the split by site.

    Raises:
        FluxError: As :func:`split_sites`, or no day is before or none after ``warm_until``.
    """
    cold = split_sites(sites, days, shares, seed)
    warm = days < np.datetime64(warm_until)
    if warm.all() or not warm.any():
        raise FluxError(f"warm_until {warm_until} is not inside {days[0]} to {days[-1]}")
    held_out = cold.validation | cold.test
    return Split(cold.training | (held_out & warm), cold.validation & ~warm, cold.test & ~warm)


def windows(
    targets: Mask, context: int, horizon: int, stride: int, known: Mask | None = None
) -> NDArray[np.int64]:
    """Cut windows of ``context`` days that are seen and ``horizon`` days that are predicted.

    Args:
        targets: Days that may be predicted, (S, T): all days of a horizon must be.
        context: Days, zero or more.
        horizon: Days.
        stride: From the start of a window to the next.
        known: Days that may be seen as context; ``targets`` itself where it is not given, as in
            training. A test may look back on any day: pass a mask of ones.

    Returns:
        Site and first day of each window, (N, 2). The context comes first, then the horizon.

    Raises:
        FluxError: No window fits.
    """
    if min(horizon, stride) < 1 or context < 0:
        raise FluxError(
            f"expected context >= 0 and horizon, stride >= 1: {context, horizon, stride}"
        )
    seen = targets if known is None else known
    starts = np.arange(0, targets.shape[1] - context - horizon + 1, stride)
    fits = _all_within(targets, starts + context, horizon) & _all_within(seen, starts, context)
    found = np.argwhere(fits)
    if not len(found):
        raise FluxError(f"no window of {context} + {horizon} days fits into this part of the split")
    return np.stack([found[:, 0], starts[found[:, 1]]], axis=1)


def _all_within(mask: Mask, starts: NDArray[np.int64], length: int) -> Mask:
    """Whether ``length`` days from each start are all in a mask, (S, N)."""
    count = np.concatenate([np.zeros((len(mask), 1), np.int64), mask.cumsum(axis=1)], axis=1)
    return np.asarray(count[:, starts + length] - count[:, starts] == length)


def _site_groups(sites: Sequence[str], shares: tuple[float, float], seed: int) -> list[Mask]:
    counts = [max(1, round(share * len(sites))) for share in shares]
    if not all(0 < share < 1 for share in shares) or sum(counts) >= len(sites):
        raise FluxError(
            f"shares {shares} of {len(sites)} sites for validation and test leave none for "
            "training, or are not between 0 and 1"
        )
    keys = [derived_seed(seed, "split", name) for name in sites]
    rank = np.argsort(np.argsort(np.array(keys)))
    bounds = [0, counts[0], sum(counts), len(sites)]
    validation, test, training = ((rank >= low) & (rank < high) for low, high in pairwise(bounds))
    return [training, validation, test]
