"""The same stretch of points of many members, read from their shards without Zarr.

Zarr reads whole inner chunks. Of a thousand members these alone are a gigabyte, so here a stretch
may be a part of one: what is not compressed is then read where it lies, each byte once.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipelines.ensemble.documents import EnsembleError, reported
from pipelines.ensemble.layout import ArraySpec, Layout

Array = NDArray[Any]


class MemberChunks:
    """Inner chunks of one array, of some of its members.

    Args:
        layout: The ensemble.
        spec: The array.
        members: Indices along the member axis.

    Raises:
        EnsembleError: A shard is missing, or its index is damaged.
    """

    def __init__(self, layout: Layout, spec: ArraySpec, members: Sequence[int]) -> None:
        self.spec = spec
        self.points = prod(spec.inner)
        self._shards = [layout.path / spec.shard(member) for member in members]
        count = prod(spec.shape) // self.points
        self._indices = [_read_index(shard, count) for shard in self._shards]

    def __iter__(self) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Each chunk's number and its place in a member, in the order in which shards have them."""
        starts = [range(0, n, c) for n, c in zip(self.spec.shape, self.spec.inner, strict=True)]
        for number, corner in enumerate(product(*starts)):
            edges = zip(corner, self.spec.inner, strict=True)
            yield number, tuple(slice(start, start + length) for start, length in edges)

    def read(self, number: int, start: int, stop: int) -> Array:
        """Read points ``start`` to ``stop`` of a chunk, counted in C order: (members, points)."""
        values = np.empty((len(self._shards), stop - start), np.dtype(self.spec.dtype))
        for row, shard, index in zip(values, self._shards, self._indices, strict=True):
            offset, length = map(int, index[number])
            row[:] = self._read_one(shard, offset, length, start, stop)
        return values

    def _read_one(self, shard: Path, offset: int, length: int, start: int, stop: int) -> Array:
        dtype = np.dtype(self.spec.dtype).newbyteorder("<")
        if self.spec.codec == "none":
            size = dtype.itemsize
            found = _pread(shard, offset + start * size, (stop - start) * size)
            return np.frombuffer(found, dtype)
        from numcodecs.blosc import Blosc

        whole = np.frombuffer(Blosc().decode(_pread(shard, offset, length)), dtype)
        return whole[start:stop]


def _read_index(shard: Path, count: int) -> Array:
    with reported(f"reading {shard}"):
        end = shard.stat().st_size
    content = _pread(shard, max(0, end - 16 * count - 4), 16 * count + 4)
    entries, checksum = content[:-4], int.from_bytes(content[-4:], "little")
    if google_crc32c.value(entries) != checksum:
        raise EnsembleError(f"{shard}: the index has changed; 'yaoki verify' says more")
    return np.frombuffer(entries, "<u8").reshape(count, 2)


def _pread(shard: Path, offset: int, length: int) -> bytes:
    with reported(f"reading {shard}"):
        descriptor = os.open(shard, os.O_RDONLY)
        try:
            found = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
    if len(found) != length:
        raise EnsembleError(f"{shard}: truncated; 'yaoki verify' says more")
    return found
