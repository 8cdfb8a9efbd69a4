"""Sums over points, of which the scores of a whole ensemble are made."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.statistics.points import Array, crps_of_sorted, ranks


class Scores:
    """What has been summed so far over points at which all is finite.

    Args:
        members: Number of members.
        scored: Whether there is a truth to compare with.
    """

    def __init__(self, members: int, scored: bool) -> None:
        self.members, self.scored = members, scored
        self.points = 0
        self._variance = self._error = self._crps = 0.0
        self.histogram: NDArray[np.int64] = np.zeros(members + 1, np.int64)

    def add(
        self, members: Array, mean: Array, spread: Array, truth: Array | None, draws: Array
    ) -> None:
        """Add points: ascending members ``(n, M)``, the rest ``(n)``; what is not finite is not."""
        finite = np.isfinite(members[:, 0]) & np.isfinite(members[:, -1])
        if truth is not None:
            finite &= np.isfinite(truth)
        if not finite.all():
            members, mean, spread, draws = (a[finite] for a in (members, mean, spread, draws))
            truth = None if truth is None else truth[finite]
        self.points += len(members)
        self._variance += float(np.square(spread).sum())
        if truth is not None:
            self._error += float(np.square(mean - truth).sum())
            found = ranks(members, truth, draws)
            self.histogram += np.bincount(found, minlength=self.members + 1)
            if self.members > 1:
                self._crps += float(crps_of_sorted(members, truth).sum())

    def values(self) -> Mapping[str, float]:
        """The scores by name; NaN where one member, or no point, allows none."""
        points = self.points or np.nan
        found = {"spread_rms": float(np.sqrt(self._variance / points))}
        if self.scored:
            several = 1.0 if self.members > 1 else np.nan
            ratio = np.float64(self._variance) * (self.members + 1) / self.members
            with np.errstate(divide="ignore", invalid="ignore"):
                found |= {
                    "rmse": float(np.sqrt(self._error / points)),
                    "crps": several * self._crps / points,
                    "spread_error_ratio": several * float(np.sqrt(ratio / self._error)),
                }
        return found
