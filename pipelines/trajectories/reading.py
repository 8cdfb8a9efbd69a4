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

    A contiguous dataset is read past HDF5, straight from its place in the file: several times
    cheaper for a window, and by position, so that a descriptor that came through a fork is as
    good as one's own. Files that we did not write are scanned once, trajectory by trajectory, for
    NaN and infinity.

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
        self._place: int | None = None
        self._descriptor: int | None = None
        self._checked: set[int] = set()
        try:
            self._inspect()
        finally:
            self.close()

    def read(self, index: int, start: int, window: int) -> NDArray[np.float32]:
        """Frames ``start`` to ``start + window`` of a trajectory, (window, C, H, W).

        Raises:
            TrajectoryError: The file cannot be read there, or the trajectory holds NaN or infinity.
        """
        frames = np.empty((window, *self.shape[2:]), np.float32)
        self.read_into(frames, index, start)
        return frames

    def read_into(self, frames: NDArray[np.float32], index: int, start: int) -> None:
        """Fill ``frames``, (window, C, H, W) and contiguous, from frame ``start`` on.

        Raises:
            TrajectoryError: As for :meth:`read`.
        """
        if index not in self._checked:
            self._check_again(index)
        self._fill(frames, index, start)

    def _check_again(self, index: int) -> None:
        # Finite when it was written: since then it was altered, or the disk failed. Looked at once
        # in a process: at every window it would cost half as much as reading it.
        trajectory = np.empty(self.shape[1:], np.float32)
        self._fill(trajectory, index, 0)
        if not np.isfinite(trajectory).all():
            raise TrajectoryError(
                f"{self.path}: expected finite values, found others in trajectory {index}; "
                "fetch or make the file again"
            )
        self._checked.add(index)

    def _fill(self, frames: NDArray[np.float32], index: int, start: int) -> None:
        try:
            if self._place is None:
                self._dataset().read_direct(frames, np.s_[index, start : start + len(frames)])
            else:
                self._fill_from_place(frames, self._place, index, start)
        except OSError as error:
            raise TrajectoryError(f"{self.path}: trajectory {index}: {error}") from error

    def _fill_from_place(
        self, frames: NDArray[np.float32], place: int, index: int, start: int
    ) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        frame = frames.nbytes // len(frames)
        position = place + (index * self.shape[1] + start) * frame
        buffer = frames.reshape(-1).view(np.uint8).data
        while buffer:
            count = os.preadv(self._descriptor, [buffer], position)
            if count == 0:
                raise OSError("the file ends there; it was whole when it was opened")
            buffer, position = buffer[count:], position + count

    def close(self) -> None:
        """Close the file in this process; the next read opens it again."""
        if self._file is not None:
            self._file.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._file, self._x, self._pid = None, None, -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_x": None, "_pid": -1, "_descriptor": None}

    def _dataset(self) -> Any:
        # HDF5's own handle, shared with a parent through a fork, is not safe: open another.
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
        # None also for a dataset in external files, or in the header of a tiny one.
        self._place = x.id.get_offset()
        if x.chunks is not None:
            self._warn_of_chunks(x)
        if self.attributes.get("format") != FORMAT or self.attributes.get("finite") is not True:
            self._check_finite()

    def _warn_of_chunks(self, x: Any) -> None:
        frames = min(5, self.shape[1])
        milliseconds = self.window_seconds(frames) * 1e3
        warnings.warn(
            f"{self.path}: x is chunked {x.chunks}, compression {x.compression}; a window of "
            f"{frames} frames took {milliseconds:.2f} ms here; write it contiguous once: "
            f"yaoki repack {str(self.path)!r} 'new.h5'",
            SlowLayoutWarning,
            stacklevel=4,
        )

    def window_seconds(self, frames: int) -> float:
        """What a window costs to read here and now, the mean of three far from each other."""
        n, steps = self.shape[:2]
        window = np.empty((frames, *self.shape[2:]), np.float32)
        begun = time.perf_counter()
        for part in range(3):  # far apart, or the chunk cache would answer
            self._fill(window, part * n // 3, part * (steps - frames) // 2)
        return (time.perf_counter() - begun) / 3

    @property
    def contiguous(self) -> bool:
        """Whether the values lie in the file as they are, in one piece."""
        return self._place is not None

    def _check_finite(self) -> None:
        for index in range(self.shape[0]):
            trajectory = np.empty(self.shape[1:], np.float32)
            self._fill(trajectory, index, 0)
            refuse_infinite(self.path, index, trajectory)
            self._checked.add(index)


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
