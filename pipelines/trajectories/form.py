"""What a file of trajectories must be, and what is said when it is not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "yaoki.trajectories/1"
RESERVED = {"format", "finite"}


class TrajectoryError(ValueError):
    """A trajectory file that is missing, torn, of another shape, or not finite."""


class SlowLayoutWarning(UserWarning):
    """A chunked trajectory file, which is slow to read by windows."""


def check_form(place: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse anything but (n, T, C, H, W) in float32."""
    if len(shape) != 5 or 0 in shape:
        raise TrajectoryError(f"{place}: expected x of shape (n, T, C, H, W), found {shape}")
    if dtype != np.dtype("<f4"):
        raise TrajectoryError(f"{place}: expected x in little-endian float32, found {dtype}")


def refuse_infinite(place: object, index: int, trajectory: NDArray[np.float32]) -> None:
    """Refuse a trajectory that holds NaN or infinity, and say where the first one is."""
    finite = np.isfinite(trajectory)
    if not finite.all():
        where = tuple(int(axis) for axis in np.argwhere(~finite)[0])
        raise TrajectoryError(
            f"{place}: trajectory {index} holds {int((~finite).sum())} values that are not finite, "
            f"the first at (t, c, y, x) = {where}; simulate it with a smaller time step"
        )
