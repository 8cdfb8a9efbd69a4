"""Windows of sites as a network takes them: normalized features, fluxes in their units."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.lstm.config import LstmConfig
from jobs.lstm.sites import deviations, split_of
from pipelines.fluxes import FluxRecords, Normalizer, Split
from pipelines.fluxes.forecasts import Windows, cut, seasonal_cycle
from pipelines.fluxes.normalization import Scale
from pipelines.fluxes.regression import cross_fitted


@dataclass(frozen=True)
class Batch:
    """Windows of L days, context and horizon.

    Attributes:
        dynamic: Normalized, (B, L, D).
        static: Normalized, (B, P).
        fluxes: Targets in gC m-2 d-1, (B, L, F); in gaps, what stands in for them.
        known: Which of them are no gaps, (B, L, F).
        deviation: What errors are divided by, (B, F).
        step: Of the training, for teacher forcing.
    """

    dynamic: Tensor
    static: Tensor
    fluxes: Tensor
    known: Tensor
    deviation: Tensor
    step: int = 0

    def part(self, part: slice, device: torch.device) -> "Batch":
        """Some of the windows, on the device."""
        parts = (self.dynamic, self.static, self.fluxes, self.known, self.deviation)
        dynamic, static, fluxes, known, deviation = (values[part].to(device) for values in parts)
        return Batch(dynamic, static, fluxes, known, deviation, self.step)


class Samples:
    """All that one member reads: its split of the sites, normalized by its training days alone.

    In a gap stands the site's seasonal cycle over its training days, or, where that is not known,
    the mean of the training days of all sites. No error is counted there.

    Args:
        config: The member's.
        records: Of all sites.

    Attributes:
        config: The member's.
        records: Of all sites, with their gaps.
        dynamic: Their drivers without gaps, (S, T, D).
        split: What for which days are.
        baseline: What the network corrects, (S, T, F), or nothing.
        targets: What it predicts: the records, or what the baseline leaves of their fluxes.
        normalizer: Of the training split.
    """

    def __init__(self, config: LstmConfig, records: FluxRecords) -> None:
        self.config, self.records = config, records
        self.split: Split = split_of(config, records)
        drivers = Scale.fit(records.dynamic_names, records.dynamic[self.split.training])
        self.dynamic = self._filled(records.dynamic, drivers)
        self.baseline = self._baseline()
        self.targets = records
        if self.baseline is not None:
            self.targets = replace(records, fluxes=records.fluxes - self.baseline)
        self.normalizer = Normalizer.fit(self.targets, self.split.training)
        self._dynamic = _float32(self.normalizer.dynamic.apply(self.dynamic))
        self._static = _float32(self.normalizer.static.apply(records.static))
        self._fluxes = _float32(self._filled(self.targets.fluxes, self.normalizer.fluxes))
        self._known = np.isfinite(records.fluxes)
        self._deviation = _float32(deviations(config, self.targets, self.split))

    def _baseline(self) -> NDArray[np.float64] | None:
        ask = self.config.objective
        if ask.baseline == "none":
            return None
        return cross_fitted(self.records, self.dynamic, self.split.training, ask.penalty)

    def _filled(self, values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
        gap = np.isnan(values)
        if not gap.any():
            return values
        cycle = seasonal_cycle(values, self.records.days, self.split.training)
        instead = np.where(np.isnan(cycle), np.array(scale.mean), cycle)
        return np.where(gap, instead, values)

    def batch(self, where: Windows, horizon: int, step: int = 0) -> Batch:
        """The windows at these sites and first days."""
        length = self.config.windows.context + horizon
        sites = where[:, 0]
        return Batch(
            torch.from_numpy(cut(self._dynamic, where, 0, length)),
            torch.from_numpy(self._static[sites]),
            torch.from_numpy(cut(self._fluxes, where, 0, length)),
            torch.from_numpy(cut(self._known, where, 0, length)),
            torch.from_numpy(self._deviation[sites]),
            step,
        )


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)
