"""One scale for training, validation and test, which training alone decides."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.records.files import write_atomic
from pipelines.fluxes.records import FluxError, FluxRecords
from pipelines.fluxes.splits import Mask

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of named variables, in their own units.

    What does not vary in training (all static features of a single site, say) has deviation 1.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def fit(cls, names: tuple[str, ...], values: Array) -> "Scale":
        """Fit to values (..., len(names)), leaving out what is NaN.

        Raises:
            FluxError: A variable is never known.
        """
        rows = values.reshape(math.prod(values.shape[:-1]), len(names))
        unknown = np.isnan(rows).all(axis=0)
        if unknown.any():
            absent = ", ".join(np.array(names)[unknown])
            raise FluxError(f"{absent}: no value in the training split; leave it out (`select`)")
        mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        # A constant column has a deviation of rounding errors, which must not be divided by.
        varies = deviation > 1e-12 * np.abs(mean)
        return cls(names, tuple(mean.tolist()), tuple(np.where(varies, deviation, 1.0).tolist()))

    def apply(self, values: Array) -> Array:
        """Normalize; NaN stays NaN."""
        return np.asarray((values - np.array(self.mean)) / np.array(self.deviation))

    def invert(self, values: Array) -> Array:
        """Go back to units."""
        return np.asarray(values * np.array(self.deviation) + np.array(self.mean))


@dataclass(frozen=True)
class Normalizer:
    """The scales of everything in :class:`FluxRecords`."""

    dynamic: Scale
    static: Scale
    fluxes: Scale

    @classmethod
    def fit(cls, records: FluxRecords, training: Mask) -> "Normalizer":
        """Fit to the training split alone; a site with a training day counts once in ``static``.

        Raises:
            FluxError: The mask does not fit the records, is empty, or a variable is never known.
        """
        shape = (len(records.sites), len(records.days))
        if training.shape != shape or not training.any():
            raise FluxError(f"expected a mask of {shape} sites, days that is not empty")
        return cls(
            Scale.fit(records.dynamic_names, records.dynamic[training]),
            Scale.fit(records.static_names, records.static[training.any(axis=1)]),
            Scale.fit(records.flux_names, records.fluxes[training]),
        )

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all; numbers read back exactly."""
        write_atomic(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Normalizer":
        """Read what :meth:`save` wrote.

        Raises:
            FluxError: The file is missing, or is not a normalizer.
        """
        try:
            found = json.loads(path.read_bytes())
            return cls(*(_scale(found[name]) for name in ("dynamic", "static", "fluxes")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FluxError(f"{path}: not a normalizer: {error}; fit it again") from error


def _scale(found: Mapping[str, list[str] | list[float]]) -> Scale:
    names, mean, deviation = (found[field] for field in ("names", "mean", "deviation"))
    if not len(names) == len(mean) == len(deviation):
        raise ValueError("its names, means and deviations are not equally many")
    return Scale(tuple(map(str, names)), tuple(map(float, mean)), tuple(map(float, deviation)))
