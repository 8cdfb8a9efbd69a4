"""One trajectory file, opened for reading in each process by itself."""

import os
import time
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.trajectories.form import (
    FORMAT,
    SlowLayoutWarning,
    TrajectoryError,
    check_form,
    refuse_infinite,
)


class TrajectoryFile:
    """One file of trajectories, checked here and opened again in each process that reads it.

    Files that we did not write are scanned once, trajectory by trajectory, for NaN and infinity.

    Attributes:
        shape: (n, T, C, H, W).
        attributes: What the file says about its making.

    Raises:
        TrajectoryError: If the file is missing, torn, of another shape or type, or not finite.

    Warns:
        SlowLayoutWarning: If the file is chunked, with the measured time of one window.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: Any = None
        self._x: Any = None
        self._pid = -1
        try:
            self._inspect()
        finally:
            self.close()

    def read(self, index: int, start: int, window: int) -> NDArray[np.float32]:
        """Frames ``start`` to ``start + window`` of a trajectory, (window, C, H, W).

        Raises:
            TrajectoryError: The file cannot be read there, or holds NaN or infinity.
        """
        frames = self._frames(index, start, window)
        # The file was finite when it was written: since then it was altered, or the disk failed.
        if not np.isfinite(frames).all():
            raise TrajectoryError(
                f"{self.path}: expected finite values, found others in trajectory {index}, frames "
                f"{start} to {start + window - 1}; fetch or make the file again"
            )
        return frames

    def _frames(self, index: int, start: int, window: int) -> NDArray[np.float32]:
        try:
            frames: NDArray[np.float32] = self._dataset()[index, start : start + window]
        except OSError as error:
            raise TrajectoryError(f"{self.path}: trajectory {index}: {error}") from error
        return frames

    def close(self) -> None:
        """Close the file in this process; the next read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._x, self._pid = None, None, -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_x": None, "_pid": -1}

    def _dataset(self) -> Any:
        # A handle that came through a fork shares its file offset with the parent's: let it go.
        if self._pid != os.getpid():
            self.close()
            self._file = _open(self.path)
            self._x, self._pid = self._file.get("x"), os.getpid()
        return self._x

    def _inspect(self) -> None:
        x = self._dataset()
        if not isinstance(x, h5py.Dataset):
            raise TrajectoryError(f"{self.path}: expected a dataset 'x', found none")
        check_form(self.path, x.shape, x.dtype)
        self.attributes = {name: plain(value) for name, value in x.file.attrs.items()}
        self.shape: tuple[int, int, int, int, int] = x.shape
        if x.chunks is not None:
            self._warn_of_chunks(x)
        if self.attributes.get("format") != FORMAT or self.attributes.get("finite") is not True:
            self._check_finite()

    def _warn_of_chunks(self, x: Any) -> None:
        n, steps = x.shape[:2]
        begin = time.perf_counter()
        for part in range(3):  # far apart, or the chunk cache would answer
            self.read(part * n // 3, part * max(steps - 5, 0) // 2, 5)
        seconds = (time.perf_counter() - begin) / 3
        warnings.warn(
            f"{self.path}: x is chunked {x.chunks}, compression {x.compression}; a window of 5 "
            f"frames took {seconds * 1e3:.2f} ms here; rewrite it contiguous once: "
            f"pipelines.trajectories.rewrite({str(self.path)!r}, 'new.h5')",
            SlowLayoutWarning,
            stacklevel=4,
        )

    def _check_finite(self) -> None:
        for index in range(self.shape[0]):
            refuse_infinite(self.path, index, self._frames(index, 0, self.shape[1]))


def plain(value: Any) -> Any:
    """NumPy scalars and arrays, as HDF5 returns them, in Python's own types."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _open(path: Path) -> Any:
    if not path.is_file():
        raise TrajectoryError(f"{path}: no such file; expected trajectories in HDF5")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise TrajectoryError(
            f"{path}: is no whole HDF5 file ({error}); make or fetch it again"
        ) from error
