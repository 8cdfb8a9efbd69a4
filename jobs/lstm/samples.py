"""Windows of sites as a network takes them: normalized features, fluxes in their units."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.lstm.config import LstmConfig
from jobs.lstm.sites import deviations, split_of
from pipelines.fluxes import FluxRecords, Normalizer, Split
from pipelines.fluxes.forecasts import Windows, cut


@dataclass(frozen=True)
class Batch:
    """Windows of L days, context and horizon.

    Attributes:
        dynamic: Normalized, (B, L, D).
        static: Normalized, (B, P).
        fluxes: In gC m-2 d-1, (B, L, F).
        deviation: What errors are divided by, (B, F).
        step: Of the training, for teacher forcing.
    """

    dynamic: Tensor
    static: Tensor
    fluxes: Tensor
    deviation: Tensor
    step: int = 0

    def part(self, part: slice, device: torch.device) -> "Batch":
        """Some of the windows, on the device."""
        parts = (self.dynamic, self.static, self.fluxes, self.deviation)
        dynamic, static, fluxes, deviation = (values[part].to(device) for values in parts)
        return Batch(dynamic, static, fluxes, deviation, self.step)


class Samples:
    """All that one member reads: its split of the sites, normalized by its training days alone.

    Args:
        config: The member's.
        records: Of all sites.

    Attributes:
        config: The member's.
        records: Of all sites.
        split: What for which days are.
        normalizer: Of the training split.
    """

    def __init__(self, config: LstmConfig, records: FluxRecords) -> None:
        self.config, self.records = config, records
        self.split: Split = split_of(config, records)
        self.normalizer = Normalizer.fit(records, self.split.training)
        self._dynamic = _float32(self.normalizer.dynamic.apply(records.dynamic))
        self._static = _float32(self.normalizer.static.apply(records.static))
        self._fluxes = _float32(records.fluxes)
        self._deviation = _float32(deviations(config, records, self.split))

    def batch(self, where: Windows, horizon: int, step: int = 0) -> Batch:
        """The windows at these sites and first days."""
        length = self.config.windows.context + horizon
        sites = where[:, 0]
        return Batch(
            torch.from_numpy(cut(self._dynamic, where, 0, length)),
            torch.from_numpy(self._static[sites]),
            torch.from_numpy(cut(self._fluxes, where, 0, length)),
            torch.from_numpy(self._deviation[sites]),
            step,
        )


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)
