"""Statistics over members of an ensemble of any size, in bounded memory."""

from pipelines.statistics.ensemble import QUANTILES, ensemble_statistics
from pipelines.statistics.truth import open_truth

__all__ = ["QUANTILES", "ensemble_statistics", "open_truth"]
