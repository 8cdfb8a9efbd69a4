"""Gridded densities in a Zarr group: which array they are, on which grid, and what they mean."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import zarr
from numpy.typing import NDArray

from cluster.records.files import fsync_directory, write_atomic
from kernels.gmm import Kind
from pipelines.ensemble.encoding import consolidated

Array = NDArray[Any]
#: What an array of densities may be called, and what it is then taken for.
NAMES: Mapping[str, Kind] = {
    "density": "point_density",
    "mass": "cell_mass",
    "masses": "cell_mass",
    "counts": "histogram",
}


class DensityError(Exception):
    """A store that does not hold densities on a grid, or cannot be read or written."""


@dataclass(frozen=True)
class DensityStore:
    """Densities that are read in blocks.

    Attributes:
        path: The Zarr group.
        name: The array in it, (B, N).
        values: The array; nothing of it is read yet.
        grid: Points (N) or edges (N + 1), or an array with one such row for each density.
        kind: What the values are.
        units: Of the grid.
        dimension: Name of the axis of densities.
    """

    path: Path
    name: str
    values: "zarr.Array[Any]"
    grid: "zarr.Array[Any] | Array"
    kind: Kind
    units: str
    dimension: str

    @property
    def count(self) -> int:
        """Number of densities."""
        return int(self.values.shape[0])

    def block(self, start: int, stop: int) -> tuple[Array, Array]:
        """Densities (b, N) and their grid.

        Raises:
            DensityError: The store cannot be read there.
        """
        try:
            values = np.asarray(self.values[start:stop], np.float64)
            grid = self.grid if self.grid.ndim == 1 else self.grid[start:stop]
        except (OSError, ValueError, RuntimeError) as error:
            raise DensityError(f"{self.path}: densities {start} to {stop}: {error}") from error
        return values, np.asarray(grid, np.float64)


def open_densities(
    path: Path | str, name: str | None = None, grid: str | None = None, kind: str | None = None
) -> DensityStore:
    """Find the densities in a Zarr group.

    Args:
        path: The group.
        name: The array of densities, (B, N); default: the one of ``NAMES``, or the only one with
            two axes.
        grid: The array of points or edges; default: ``edges``, or what the last axis is named.
        kind: What the values are; default: the array's attribute ``kind``, or after ``NAMES``.

    Raises:
        DensityError: No such group, array, grid or kind, or shapes that do not fit.
    """
    path = Path(path)
    try:
        group = zarr.open_group(path, mode="r")
    except (OSError, ValueError) as error:
        raise DensityError(f"{path}: expected a Zarr group with densities: {error}") from error
    arrays = dict(group.arrays())
    values = _values(path, arrays, name)
    found = _kind(path, values, kind)
    points = _grid(path, arrays, values, grid)
    axes = values.metadata.dimension_names if hasattr(values.metadata, "dimension_names") else None
    return DensityStore(
        path=path,
        name=values.basename,
        values=values,
        grid=np.asarray(points[:]) if points.ndim == 1 else points,
        kind=found,
        units=str(points.attrs.get("units", "1")),
        dimension=(axes and axes[0]) or "density",
    )


def _values(
    path: Path, arrays: Mapping[str, "zarr.Array[Any]"], name: str | None
) -> "zarr.Array[Any]":
    if name is None:
        known = [key for key in NAMES if key in arrays]
        wide = [key for key, array in arrays.items() if array.ndim == 2]
        candidates = known or wide
        if len(candidates) != 1:
            raise DensityError(
                f"{path}: expected one array of densities ({', '.join(NAMES)}, or the only one "
                f"with two axes), found {sorted(candidates)} of {sorted(arrays)}; name it"
            )
        name = candidates[0]
    if name not in arrays or arrays[name].ndim != 2 or arrays[name].dtype.kind not in "fiu":
        shape = arrays[name].shape if name in arrays else "none"
        raise DensityError(
            f"{path}: expected {name} to be an array of numbers (densities, points), found {shape}"
        )
    return arrays[name]


def _kind(path: Path, values: "zarr.Array[Any]", kind: str | None) -> Kind:
    found = kind or values.attrs.get("kind") or NAMES.get(values.basename)
    if found not in get_args(Kind):
        raise DensityError(
            f"{path}: {values.basename}: expected a kind, one of {', '.join(get_args(Kind))}, "
            f"found {found}; say which"
        )
    return cast(Kind, found)


def _grid(
    path: Path, arrays: Mapping[str, "zarr.Array[Any]"], values: "zarr.Array[Any]", name: str | None
) -> "zarr.Array[Any]":
    axes = getattr(values.metadata, "dimension_names", None) or ("", "")
    candidates = [name] if name else ["edges", axes[-1], "z"]
    found = next((arrays[key] for key in candidates if key in arrays), None)
    size = values.shape[1]
    if found is None or found.shape[-1] not in (size, size + 1):
        shape = found.shape if found is not None else "none"
        wanted = " or ".join(repr(key) for key in candidates if key)
        raise DensityError(
            f"{path}: expected {wanted} with {size} points or {size + 1} edges of the grid, "
            f"found {shape}; name the array of the grid"
        )
    if found.ndim == 2 and found.shape[0] not in (1, values.shape[0]):
        raise DensityError(
            f"{path}: {found.basename} has {found.shape[0]} grids for {values.shape[0]} rows"
        )
    return found


@contextmanager
def new_group(out: Path, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
    """A Zarr group that appears at ``out`` when the block ends well, or not at all.

    Raises:
        DensityError: There is something at ``out``, or it cannot be written.
    """
    if out.exists():
        raise DensityError(f"{out}: there is something already; remove it or name another place")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    except OSError as error:
        raise DensityError(f"{out}: cannot be written: {error}") from error
    try:
        yield zarr.create_group(stage, zarr_format=3, attributes=dict(attributes))
        _publish(stage, out)
    except OSError as error:
        raise DensityError(f"{out}: cannot be written: {error}; free some space") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _publish(stage: Path, out: Path) -> None:
    metadata = [stage / "zarr.json", *stage.glob("*/zarr.json")]
    files = {str(file.relative_to(stage)): file.read_bytes() for file in metadata}
    write_atomic(stage / "zarr.json", consolidated(files)["zarr.json"])
    for directory in (stage, *(file.parent for file in metadata[1:])):
        for file in directory.iterdir():
            if file.is_file():
                _fsync(file)
        fsync_directory(directory)
    stage.chmod(0o755)
    stage.rename(out)
    fsync_directory(out.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dimensions: tuple[str, ...],
    attributes: Mapping[str, Any],
    dtype: str = "float64",
    rows: int | None = None,
) -> "zarr.Array[Any]":
    """An array whose chunks are ``rows`` rows, one file each in the array's directory."""
    chunks = (min(rows or shape[0], shape[0]), *shape[1:])
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=None,
        filters=None,
        fill_value=float("nan") if dtype.startswith("float") else 0,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=dimensions,
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )


def create_densities(
    path: Path | str, values: Array, grid: Array, kind: Kind, units: str = "1"
) -> None:
    """Write densities (B, N) and their grid, points (N) or edges (N + 1), as a store to fit.

    Raises:
        DensityError: There is something at ``path``, or it cannot be written.
    """
    name = next(key for key, known in NAMES.items() if known == kind)
    edges = grid.shape[-1] == values.shape[1] + 1
    called = {"long_name": f"{kind.replace('_', ' ')} on a grid", "kind": kind}
    unit = f"{units}-1" if kind == "point_density" and units != "1" else "1"
    with new_group(Path(path), {"Conventions": "CF-1.11"}) as group:
        stored = new_array(
            group, name, values.shape, ("density_index", "z"), {**called, "units": unit}, rows=8192
        )
        stored[:] = values
        label, axis = ("edges", "edge") if edges else ("z", "z")
        axes = (axis,) if grid.ndim == 1 else ("density_index", axis)
        place = new_array(group, label, grid.shape, axes, {"units": units}, rows=8192)
        place[:] = grid
