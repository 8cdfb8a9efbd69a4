"""Anomalies that fade: what a regression on weather missed lately, it will miss for a while."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipelines.fluxes.forecasts import Windows
from pipelines.fluxes.records import Array
from pipelines.fluxes.splits import Mask

_SPANS = (1, 7, 30)


class DampedAnomalies(NamedTuple):
    r"""Forecast of anomalies from their means over the last days, by lead and flux.

    .. math:: \hat e_{t+l} = \sum_k \beta_{lk} \bar e_k(t), \quad
        \bar e_k(t) = \text{mean of the last } k \text{ days before } t

    Attributes:
        weights: (horizon, F, spans).
    """

    weights: Array

    @classmethod
    def fit(
        cls, anomalies: Array, training: Mask, horizon: int, penalty: float = 0.1
    ) -> "DampedAnomalies":
        """Fit to the days of training, those that are looked back on among them.

        Args:
            anomalies: Of a forecast that did not see the days that it was for, (S, T, F); NaN in
                gaps.
            training: Days to learn from, (S, T).
            horizon: Leads, in days.
            penalty: Of the squared weights, in shares of the variance of what explains.
        """
        known = np.where(training[..., None], anomalies, np.nan)
        recent = _recent(known)
        weights = np.zeros((horizon, anomalies.shape[-1], len(_SPANS)))
        for lead in range(horizon):
            x, y = recent[:, : recent.shape[1] - lead], known[:, lead:]
            for flux in range(anomalies.shape[-1]):
                rows = np.isfinite(y[..., flux])
                weights[lead, flux] = _ridge(x[rows][:, flux], y[rows][:, flux], penalty)
        return cls(weights)

    def predict(self, anomalies: Array, where: Windows, context: int) -> Array:
        """Anomalies of the horizon of each window, (N, horizon, F), from the days before it."""
        recent = _recent(anomalies)[where[:, 0], where[:, 1] + context]
        return np.asarray(np.einsum("nfk,lfk->nlf", recent, self.weights))


def _recent(anomalies: Array) -> Array:
    """Means of the days before each day, (S, T, F, spans); zero where none is known."""
    longest = max(_SPANS)
    before = np.full((len(anomalies), longest, anomalies.shape[-1]), np.nan)
    days = sliding_window_view(np.concatenate([before, anomalies], axis=1)[:, :-1], longest, axis=1)
    known = np.isfinite(days)
    means = []
    for span in _SPANS:
        count = known[..., -span:].sum(axis=-1)
        total = np.where(known[..., -span:], days[..., -span:], 0.0).sum(axis=-1)
        means.append(total / np.maximum(count, 1))
    return np.stack(means, axis=-1)


def _ridge(x: Array, y: Array, penalty: float) -> Array:
    gram = x.T @ x
    # All zeros where nothing is ever known before: then there is nothing to forecast either.
    shrinkage = penalty * max(float(np.trace(gram)) / len(gram), np.finfo(float).tiny)
    return np.asarray(np.linalg.solve(gram + shrinkage * np.eye(len(gram)), x.T @ y))
