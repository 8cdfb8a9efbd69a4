"""The truth in a file: datasets of the arrays' names in HDF5 or in a Zarr group."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.records.files import write_atomic
from pipelines.ensemble import EnsembleError, read_layout
from pipelines.statistics.onepass import Sliceable

#: Where the truth of a run lies, if it is known: the first of these in its directory.
NAMES = ("truth.h5", "truth.zarr")


@dataclass(frozen=True)
class Repeated:
    """A truth along the leading axes of a member that it does not have itself.

    Args:
        values: Of the shape of the trailing axes.
        shape: Of a member.
    """

    values: Sliceable
    shape: tuple[int, ...]

    def __getitem__(self, place: tuple[slice, ...], /) -> NDArray[Any]:
        known = np.asarray(self.values[place[len(self.shape) - len(self.values.shape) :]])
        return np.broadcast_to(known, [part.stop - part.start for part in place])


def truth_of(run: Path) -> Path | None:
    """The file with the truth of a run, or None."""
    return next((run / name for name in NAMES if (run / name).exists()), None)


def save_truth(run: Path, truth: Mapping[str, NDArray[Any]]) -> Path:
    """Write what is true of the arrays of a run, for its page: ``truth.h5``, whole at any time.

    Args:
        run: The run directory.
        truth: Values by the arrays' names, of a member's shape or of its trailing axes.
    """
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, values in truth.items():
            file[name] = values
    write_atomic(run / NAMES[0], content.getvalue())
    return run / NAMES[0]


@contextmanager
def open_truth(file: Path, path: Path) -> "Iterator[Mapping[str, Sliceable]]":
    """Open what a file says of an ensemble's arrays, to be read in pieces.

    A dataset that has only the trailing axes of a member is the same along the others.

    Args:
        file: An HDF5 file or a Zarr group.
        path: The ensemble.

    Raises:
        EnsembleError: The file is neither, or holds none of the arrays.
    """
    wanted = read_layout(path).arrays
    with _opened(file) as group:
        found = {n: _fitted(group[n], spec.shape) for n, spec in wanted.items() if n in group}
        if not found:
            raise EnsembleError(f"{file}: expected one or more of {sorted(wanted)}, found none")
        yield found


def _fitted(values: Sliceable, shape: tuple[int, ...]) -> Sliceable:
    lacks = len(shape) - len(values.shape)
    return Repeated(values, shape) if lacks > 0 and values.shape == shape[lacks:] else values


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if not file.is_dir():
        import h5py

        try:
            opened = h5py.File(file, "r")
        except OSError as error:
            raise EnsembleError(f"{file}: expected HDF5 or a Zarr group: {error}") from error
        with opened:
            yield opened
        return
    import zarr

    try:
        group = zarr.open_group(file, mode="r")
    except (OSError, ValueError) as error:
        raise EnsembleError(f"{file}: expected HDF5 or a Zarr group: {error}") from error
    yield group
