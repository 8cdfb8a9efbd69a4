"""Regression of fluxes on the weather of the day: what a network with a memory must beat."""

from typing import NamedTuple

import numpy as np

from pipelines.fluxes.normalization import Scale
from pipelines.fluxes.records import Array, FluxRecords
from pipelines.fluxes.splits import Mask


class QuadraticRidge(NamedTuple):
    r"""Ridge regression on all monomials of degree one and two of standardized drivers.

    .. math:: \hat y = \beta_0 + \sum_i \beta_i z_i + \sum_{i \le j} \beta_{ij} z_i z_j

    Attributes:
        drivers: Scale of the drivers, :math:`z`.
        weights: Of the monomials, constant first, (1 + D + D (D + 1) / 2, F).
    """

    drivers: Scale
    weights: Array

    @classmethod
    def fit(cls, records: FluxRecords, training: Mask, penalty: float = 1e-3) -> "QuadraticRidge":
        """Fit to training days of all sites on which drivers and fluxes are known.

        Args:
            records: Of all sites.
            training: Days to learn from, (S, T).
            penalty: Of the squared weights, constant excepted, per day of training.

        Raises:
            FluxError: No such day is known.
        """
        rows = training & records.known()
        drivers = Scale.fit(records.dynamic_names, records.dynamic[rows])
        features = _monomials(drivers.apply(records.dynamic[rows]))
        shrinkage = penalty * len(features) * np.eye(features.shape[1])
        shrinkage[0, 0] = 0.0
        gram = features.T @ features + shrinkage
        weights = np.linalg.solve(gram, features.T @ records.fluxes[rows])
        return cls(drivers, np.asarray(weights, np.float64))

    def predict(self, dynamic: Array) -> Array:
        """Fluxes (..., F) of drivers (..., D); NaN where one is not known."""
        return np.asarray(_monomials(self.drivers.apply(dynamic)) @ self.weights)


def cross_fitted(
    records: FluxRecords, dynamic: Array, training: Mask, penalty: float = 1e-3
) -> Array:
    """Predict every day by a regression that has not seen its year, (S, T, F).

    Where training is within one year, its month takes the place of the year.

    What it leaves of training days is then as large as what it leaves of other days, and a network
    that learns from the one can correct the other.

    Args:
        records: Of all sites.
        dynamic: Their drivers without gaps, (S, T, D).
        training: Days to learn from, (S, T).
        penalty: Of :meth:`QuadraticRidge.fit`.
    """
    blocks = records.days.astype("datetime64[Y]").astype("datetime64[M]")
    trained = training.any(axis=0)
    if len(np.unique(blocks[trained])) < 2:
        blocks = records.days.astype("datetime64[M]")
    found = QuadraticRidge.fit(records, training, penalty).predict(dynamic)
    for block in np.unique(blocks[trained]):
        inside = blocks == block
        fitted = QuadraticRidge.fit(records, training & ~inside, penalty)
        found[:, inside] = fitted.predict(dynamic[:, inside])
    return found


def _monomials(z: Array) -> Array:
    i, j = np.triu_indices(z.shape[-1])
    return np.concatenate([np.ones_like(z[..., :1]), z, z[..., i] * z[..., j]], axis=-1)
