"""Where statistics of each point go: into memory, or into a store chunk by chunk."""

import os
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipelines.ensemble import ArraySpec
from pipelines.ensemble.shards import shard_index
from pipelines.statistics.points import Array

if TYPE_CHECKING:
    import xarray

#: What is kept of each point: mean, spread, and a row for every quantile.
NAMES = ("mean", "spread", "quantile")


class Fields(Protocol):
    """Takes the statistics of one array, each inner chunk once."""

    def put(self, number: int, place: tuple[slice, ...], rows: Array, truth: Array | None) -> None:
        """Take a chunk: ``rows``, (2 + Q, points), mean, spread, quantiles; the truth, (points)."""

    def finish(self) -> "dict[str, xarray.Variable]":
        """Return what the labelled dataset does not yet have."""


class Discarded:
    """For scores alone."""

    def put(self, number: int, place: tuple[slice, ...], rows: Array, truth: Array | None) -> None:
        """Forget it."""

    def finish(self) -> "dict[str, xarray.Variable]":
        """Nothing."""
        return {}


class Kept:
    """In memory: 2 + Q times a member, in float64."""

    def __init__(self, spec: ArraySpec, levels: int) -> None:
        self.spec = spec
        self.rows = np.empty((2 + levels, *spec.shape))

    def put(self, number: int, place: tuple[slice, ...], rows: Array, truth: Array | None) -> None:
        """Keep a chunk in its place."""
        self.rows[(slice(None), *place)] = rows.reshape(-1, *self.spec.inner)

    def finish(self) -> "dict[str, xarray.Variable]":
        """The three variables."""
        import xarray

        found = dict(zip(NAMES, (self.rows[0], self.rows[1], self.rows[2:]), strict=True))
        return {
            f"{self.spec.name}_{name}": xarray.Variable(
                dims(self.spec, name), values, attributes(self.spec, name)
            )
            for name, values in found.items()
        }


class Stored:
    """In one file a variable: a Zarr shard, whose chunks are written as they come.

    Zarr writes a shard anew for each chunk that is added. Uncompressed chunks have their places
    beforehand, so here each is written once and only the index waits for the end.
    """

    def __init__(self, spec: ArraySpec, levels: int, store: Path) -> None:
        self.spec, self._count = spec, prod(spec.shape) // prod(spec.inner)
        self._files = {name: _create(store, spec, name, levels) for name in NAMES}

    def put(self, number: int, place: tuple[slice, ...], rows: Array, truth: Array | None) -> None:
        """Write a chunk."""
        self._write("mean", number, rows[0])
        self._write("spread", number, rows[1])
        for level, row in enumerate(rows[2:]):
            self._write("quantile", level * self._count + number, row)

    def _write(self, name: str, number: int, values: Array) -> None:
        content = values.astype("<f8").tobytes()
        with self._files[name].open("r+b") as file:
            file.seek(number * len(content))
            file.write(content)

    def finish(self) -> "dict[str, xarray.Variable]":
        """Write the indices; the store has all there is."""
        size = 8 * prod(self.spec.inner)
        for path in self._files.values():
            with path.open("ab") as file:
                file.write(shard_index([size] * (path.stat().st_size // size)))
                file.flush()
                os.fsync(file.fileno())
        return {}


def dims(spec: ArraySpec, name: str) -> tuple[str, ...]:
    """Dimensions of a variable."""
    return ("quantile", *spec.dims) if name == "quantile" else spec.dims


def attributes(spec: ArraySpec, name: str) -> dict[str, str]:
    """CF attributes of a variable."""
    methods = {"mean": "member: mean", "spread": "member: standard_deviation"}
    found = {"units": spec.units, "long_name": f"{name} over members of {_called(spec)}"}
    return found | ({"cell_methods": methods[name]} if name in methods else {})


def _called(spec: ArraySpec) -> str:
    return spec.long_name or spec.name


def _create(store: Path, spec: ArraySpec, name: str, levels: int) -> Path:
    """Create the metadata of a variable and an empty file for its shard."""
    import zarr

    ahead: tuple[int, ...] = (levels,) if name == "quantile" else ()
    shape = (*ahead, *spec.shape)
    path = store / f"{spec.name}_{name}"
    zarr.create_array(
        store,
        name=path.name,
        shape=shape,
        shards=shape,
        chunks=(*(1 for _ in ahead), *spec.inner),
        dtype="float64",
        fill_value=float("nan"),
        compressors=None,
        filters=None,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=dims(spec, name),
        attributes={**attributes(spec, name)},
    )
    shard = path / ".".join(["c", *("0" for _ in shape)])
    shard.touch()
    return shard
