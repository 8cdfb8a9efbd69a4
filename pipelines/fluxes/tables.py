"""Columns of a file of measurements: CSV, Parquet or NetCDF, by the names that the file gives."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.fluxes.records import FluxError

Array = NDArray[np.float64]
# What FLUXNET and the networks before it write where nothing was measured.
_MISSING = -9999.0
_EMPTY = frozenset({"", "NA", "NAN", "NULL", "NONE"})


@dataclass(frozen=True)
class Table:
    """A file of columns, of which only those that are asked for are read.

    Attributes:
        path: The file.
        names: Of its columns, in order.
        load: Reads some, in one pass, as they are: text, numbers or ``datetime64``.
    """

    path: Path
    names: tuple[str, ...]
    load: Callable[[Sequence[str]], dict[str, NDArray[Any]]]


def as_numbers(values: NDArray[Any], place: str) -> Array:
    """Numbers of a column; what is missing (-9999, empty, masked) is NaN.

    Raises:
        FluxError: It holds something else; ``place`` says where that is.
    """
    if values.dtype.kind in "OUS":
        values = _parsed(values.astype(str), place)
    numbers = np.array(values, np.float64)
    numbers[numbers == _MISSING] = np.nan
    return numbers


def shown(names: Iterable[str], limit: int = 40) -> str:
    """Names for a message, the first of them where there are many."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def open_table(path: Path) -> Table:
    """Open a file by its suffix: ``.csv``, ``.parquet``, or ``.nc``.

    Parquet needs pyarrow, which is not installed with us; NetCDF-4 and NetCDF-3 need nothing.

    Raises:
        FluxError: The file is missing, of another kind, or not what its suffix says.
    """
    readers = {
        ".csv": _open_csv,
        ".parquet": _open_parquet,
        ".nc": _open_netcdf,
        ".nc4": _open_netcdf,
        ".cdf": _open_netcdf,
    }
    if path.suffix.lower() not in readers:
        raise FluxError(f"{path}: expected one of {', '.join(readers)}")
    if not path.is_file():
        raise FluxError(f"{path}: no such file")
    return readers[path.suffix.lower()](path)


def _open_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = tuple(name.strip() for name in next(csv.reader(file), []))

    def load(names: Sequence[str]) -> dict[str, NDArray[Any]]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            next(rows)
            return _picked(rows, header, names, path)

    return Table(path, header, load)


def _picked(
    rows: Iterable[list[str]], header: tuple[str, ...], names: Sequence[str], path: Path
) -> dict[str, NDArray[Any]]:
    """Some columns of rows of text: a full set of FLUXNET has 250, more than fit into memory."""
    positions = [header.index(name) for name in names]
    columns: list[list[str]] = [[] for _ in names]
    for number, row in enumerate(rows, start=1):
        if row and len(row) != len(header):
            raise FluxError(
                f"{path}: expected {len(header)} values in each row, "
                f"found {len(row)} in row {number}"
            )
        if row:
            for column, position in zip(columns, positions, strict=True):
                column.append(row[position].strip())
    if not columns[0]:
        raise FluxError(f"{path}: expected rows below the names of the columns, found none")
    return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


def _parsed(texts: NDArray[np.str_], place: str) -> Array:
    try:
        return texts.astype(np.float64)
    except ValueError:
        pass
    values = np.full(len(texts), np.nan)
    for row, text in enumerate(texts.tolist()):
        if text.upper() in _EMPTY:
            continue
        try:
            values[row] = float(text)
        except ValueError:
            raise FluxError(f"{place}, row {row + 1}: expected a number, found {text!r}") from None
    return values


def _open_parquet(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise FluxError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    try:
        names = parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException) as error:
        raise FluxError(f"{path}: not a Parquet file: {error}") from error

    def load(wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        found = parquet.read_table(path, columns=list(wanted))
        return {name: found.column(name).to_numpy() for name in wanted}

    return Table(path, tuple(names), load)


def _open_netcdf(path: Path) -> Table:
    with path.open("rb") as file:
        magic = file.read(3)
    return _open_netcdf3(path) if magic == b"CDF" else _open_netcdf4(path)


def _open_netcdf4(path: Path) -> Table:
    import h5py

    try:
        with h5py.File(path) as file:
            found = {
                name: _unpacked(node[()], dict(node.attrs))
                for name, node in file.items()
                if isinstance(node, h5py.Dataset) and node.size and not node.is_virtual
            }
    except OSError as error:
        raise FluxError(f"{path}: not a NetCDF file: {error}") from error
    return _series(path, found)


def _open_netcdf3(path: Path) -> Table:
    from scipy.io import netcdf_file

    with netcdf_file(path, "r", mmap=False) as file:
        found = {
            name: _unpacked(np.array(node[:]), dict(node._attributes))
            for name, node in file.variables.items()
            if node.shape
        }
    return _series(path, found)


def _series(path: Path, found: dict[str, NDArray[Any]]) -> Table:
    """Keep what has as many values as there are times, whatever axes of length one it has."""
    flat = {name: values.reshape(-1) for name, values in found.items() if values.ndim}
    length = max((len(values) for values in flat.values()), default=0)
    kept = {name: values for name, values in flat.items() if len(values) == length}
    return Table(path, tuple(kept), lambda names: {name: kept[name] for name in names})


def _unpacked(values: NDArray[Any], attributes: dict[str, Any]) -> NDArray[Any]:
    """Apply the packing and time conventions of CF."""
    units = _text(attributes.get("units", ""))
    if values.dtype.kind not in "iuf":
        return values
    if " since " in units:
        return _decoded_times(
            values.astype(np.float64), units, _text(attributes.get("calendar", ""))
        )
    packed = {"_FillValue", "missing_value", "scale_factor", "add_offset"} & attributes.keys()
    if not packed:
        return values
    numbers = values.astype(np.float64)
    for name in ("_FillValue", "missing_value"):
        if name in attributes:
            numbers[values == np.ravel(attributes[name])[0]] = np.nan
    scale, offset = (float(np.ravel(attributes.get(name, default))[0])
                     for name, default in (("scale_factor", 1.0), ("add_offset", 0.0)))  # fmt: skip
    return np.asarray(numbers * scale + offset)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _decoded_times(values: Array, units: str, calendar: str) -> NDArray[np.datetime64]:
    """Times of CF, ``<unit> since <date>``, in a calendar of the real world."""
    unit, _, start = units.partition(" since ")
    seconds = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}.get(unit.strip().rstrip("s"))
    if seconds is None or calendar not in ("", "standard", "gregorian", "proleptic_gregorian"):
        raise FluxError(
            f"time in {units!r}, calendar {calendar!r}: expected days, hours, minutes or seconds "
            "since a date, in the standard calendar"
        )
    origin = np.datetime64(start.strip().removesuffix("Z").removesuffix("UTC").strip(), "s")
    return np.asarray(origin + np.round(values * seconds).astype("timedelta64[s]"))
