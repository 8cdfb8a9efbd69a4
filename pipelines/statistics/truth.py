"""The truth in a file: datasets of the arrays' names in HDF5 or in a Zarr group."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.ensemble import EnsembleError, read_layout

if TYPE_CHECKING:
    from pipelines.statistics.ensemble import Sliceable


@contextmanager
def open_truth(file: Path, path: Path) -> "Iterator[Mapping[str, Sliceable]]":
    """Open what a file says of an ensemble's arrays, to be read in pieces.

    Args:
        file: An HDF5 file or a Zarr group.
        path: The ensemble.

    Raises:
        EnsembleError: The file is neither, or holds none of the arrays.
    """
    wanted = read_layout(path).arrays
    with _opened(file) as group:
        found = {name: group[name] for name in wanted if name in group}
        if not found:
            raise EnsembleError(f"{file}: expected one or more of {sorted(wanted)}, found none")
        yield found


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
