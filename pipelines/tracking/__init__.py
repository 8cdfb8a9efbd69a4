"""Metrics of a member: one append-only file that is the truth, and sinks that may fail.

``metrics.jsonl`` holds one JSON object a line (see ``docs/tracking.md``), and names the images
beside it. Sinks such as Weights & Biases and TensorBoard (:mod:`pipelines.sinks`) show the same;
they never stop a run.
"""

from pipelines.tracking.log import MetricsLog
from pipelines.tracking.reading import LoggedImage, read_images, read_metrics
from pipelines.tracking.rows import VOLATILE, MetricsError, Row, Value
from pipelines.tracking.tracker import Sink, Tracker

__all__ = [
    "VOLATILE",
    "LoggedImage",
    "MetricsError",
    "MetricsLog",
    "Row",
    "Sink",
    "Tracker",
    "Value",
    "read_images",
    "read_metrics",
]
