"""Windows over the trajectories of several files, and their split."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipelines.trajectories.form import TrajectoryError
from pipelines.trajectories.reading import TrajectoryFile


class TrajectoryDataset(Dataset[Tensor]):
    """Windows of the trajectories of several files, numbered through in the order given.

    Which window of which trajectory comes when is the caller's to decide: an index is a pair
    (trajectory, start). Safe in DataLoader workers under fork and under spawn.

    Args:
        paths: One or more files whose trajectories have one shape.
        window: Frames a window.
        flatten: Give (window * C, H, W), as score networks take it, or (window, C, H, W).

    Raises:
        TrajectoryError: If a file is bad, or the files differ, or no window fits.
    """

    def __init__(
        self, paths: str | Path | Sequence[str | Path], window: int, *, flatten: bool = True
    ) -> None:
        paths = [paths] if isinstance(paths, str | Path) else paths
        if not paths:
            raise TrajectoryError("expected at least one trajectory file, found none")
        self.files = tuple(TrajectoryFile(path) for path in paths)
        self.window, self.flatten = window, flatten
        first = self.files[0]
        for file in self.files[1:]:
            if file.shape[1:] != first.shape[1:]:
                raise TrajectoryError(
                    f"{file.path}: expected trajectories of shape {first.shape[1:]} "
                    f"as in {first.path}, found {file.shape[1:]}"
                )
        if not 1 <= window <= first.shape[1]:
            raise TrajectoryError(
                f"expected a window of 1 to {first.shape[1]} frames, found {window}"
            )
        self._ends = list(accumulate(file.shape[0] for file in self.files))

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(n, T, C, H, W) over all files."""
        return (self._ends[-1], *self.files[0].shape[1:])

    @property
    def starts(self) -> int:
        """How many windows a trajectory has: valid starts are 0 to ``starts - 1``."""
        return self.shape[1] - self.window + 1

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: tuple[int, int]) -> Tensor:
        """The window of a (trajectory, start) pair."""
        if not isinstance(index, tuple) or len(index) != 2:
            raise TypeError(f"expected a pair (trajectory, start), found {index!r}")
        frames = torch.empty((self.window, *self.shape[2:]))
        self._read(frames.numpy(), int(index[0]), int(index[1]))
        return frames.flatten(0, 1) if self.flatten else frames

    def windows(self, indices: Iterable[int], starts: Iterable[int]) -> Tensor:
        """A batch of windows, (B, window * C, H, W), or (B, window, C, H, W) unflattened."""
        pairs = [(int(i), int(s)) for i, s in zip(indices, starts, strict=True)]
        batch = torch.empty((len(pairs), self.window, *self.shape[2:]))
        for row, (index, start) in zip(batch.numpy(), pairs, strict=True):
            self._read(row, index, start)
        return batch.flatten(1, 2) if self.flatten else batch

    def trajectory(self, index: int) -> Tensor:
        """A whole trajectory, (T, C, H, W)."""
        frames = torch.empty(self.shape[1:])
        self._read(frames.numpy(), index, 0)
        return frames

    def _read(self, frames: NDArray[np.float32], index: int, start: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a trajectory from 0 to {len(self) - 1}, found {index}")
        last = self.shape[1] - len(frames)
        if not 0 <= start <= last:
            raise IndexError(f"expected a start from 0 to {last}, found {start}")
        shard = bisect_right(self._ends, index)
        file = self.files[shard]
        file.read_into(frames, index - self._ends[shard] + file.shape[0], start)


def split(n: int, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> tuple[range, ...]:
    """Part n trajectories into consecutive ranges: train, validation and test.

    Cuts fall at the floor of each cumulative fraction (819, 102 and 103 of 1024, as in Rozet &
    Louppe 2023), moved only as far as every part needs to have one trajectory.

    Raises:
        TrajectoryError: If the fractions are not positive with sum 1, or n is too small.
    """
    exact = [Fraction(str(fraction)) for fraction in fractions]
    if sum(exact) != 1 or min(exact) <= 0:
        raise TrajectoryError(f"expected positive fractions that sum to 1, found {fractions}")
    parts = len(exact)
    if n < parts:
        raise TrajectoryError(f"expected at least {parts} trajectories to split, found {n}")
    cuts = [0]
    for part, reached in enumerate(accumulate(exact), start=1):
        cuts.append(min(max(math.floor(n * reached), cuts[-1] + 1), n - parts + part))
    return tuple(range(begin, end) for begin, end in pairwise(cuts))
