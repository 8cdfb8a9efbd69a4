"""Trajectories of fields in HDF5: written once and whole, read by windows from many workers.

A file holds one dataset ``x`` of shape (n, T, C, H, W), float32, contiguous, and attributes that
say how it was made (see ``docs/trajectories.md``).
"""

from pipelines.trajectories.form import SlowLayoutWarning, TrajectoryError
from pipelines.trajectories.reading import TrajectoryFile
from pipelines.trajectories.windows import TrajectoryDataset, split
from pipelines.trajectories.writing import rewrite, write_trajectories

__all__ = [
    "SlowLayoutWarning",
    "TrajectoryDataset",
    "TrajectoryError",
    "TrajectoryFile",
    "rewrite",
    "split",
    "write_trajectories",
]
