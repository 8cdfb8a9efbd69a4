"""Statistics over members of an ensemble of any size, in bounded memory."""

from pipelines.statistics.ensemble import QUANTILES, ensemble_statistics
from pipelines.statistics.summary import run_summary, summarize
from pipelines.statistics.truth import open_truth, save_truth, truth_of

__all__ = [
    "QUANTILES",
    "ensemble_statistics",
    "open_truth",
    "run_summary",
    "save_truth",
    "summarize",
    "truth_of",
]
