"""A member's shard as bytes: Zarr's ``sharding_indexed`` codec, written out by hand.

Zarr itself spends several times what the disk does on encoding a shard. The codec is a
concatenation and an index, so here it is one, and where inner chunks lie in the array's own order
nothing is copied. Zarr, xarray and tensorstore read the result; tests compare.

Source: Zarr v3, sharding codec version 1.0.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipelines.ensemble.documents import Stored
from pipelines.ensemble.layout import ArraySpec

Array = NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """The content of one shard file.

    Attributes:
        parts: Its bytes, in order: the inner chunks, then the index.
    """

    parts: Sequence[memoryview]

    @classmethod
    def encode(cls, spec: ArraySpec, values: Array) -> "Shard":
        """Encode what one member writes to one array; a shard does not depend on its place in it.

        Args:
            spec: The array.
            values: Of shape ``spec.shape`` and the array's dtype. Not copied where their order
                permits: they must not change while the shard is in use.
        """
        if spec.keep_bits is not None:
            values = rounded(values, spec.keep_bits)
        chunks = [_encoded(spec, chunk) for chunk in _inner_chunks(spec, values)]
        return cls([*chunks, memoryview(shard_index([chunk.nbytes for chunk in chunks]))])

    @property
    def stored(self) -> Stored:
        """Size and digest of the file."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part)
        return Stored(sum(part.nbytes for part in self.parts), digest.hexdigest())

    def write(self, file: BinaryIO) -> None:
        """Write the file's bytes."""
        for part in self.parts:
            file.write(part)


def rounded(values: Array, keep_bits: int) -> Array:
    """Round to the nearest number of ``keep_bits`` explicit mantissa bits, ties to even.

    What is not finite stays as it is, and so does what would round to infinity. Rounding twice
    is rounding once.

    Source: Klöwer et al. (2021), Compressing atmospheric data into its real information content.
    """
    dropped = int(np.finfo(values.dtype).nmant) - keep_bits
    flat = np.ascontiguousarray(values).reshape(-1)
    bits = flat.view(f"u{flat.itemsize}")
    half = (1 << (dropped - 1)) - 1
    nearest = ((bits + half + (bits >> dropped & 1)) >> dropped << dropped).view(flat.dtype)
    kept = np.where(np.isfinite(flat) & np.isfinite(nearest), nearest, flat)
    return kept.reshape(values.shape)


def _inner_chunks(spec: ArraySpec, values: Array) -> Iterator[Array]:
    """The inner chunks in C order over their grid, each contiguous and little endian."""
    values = np.asarray(values, np.dtype(spec.dtype).newbyteorder("<"))
    starts = [range(0, n, c) for n, c in zip(spec.shape, spec.inner, strict=True)]
    for start in product(*starts):
        inside = tuple(slice(a, a + c) for a, c in zip(start, spec.inner, strict=True))
        yield np.ascontiguousarray(values[inside])


def _encoded(spec: ArraySpec, chunk: Array) -> memoryview:
    if spec.codec == "none":
        return chunk.reshape(-1).view(np.uint8).data
    from numcodecs.blosc import Blosc

    return memoryview(Blosc("lz4", clevel=5, shuffle=Blosc.BITSHUFFLE).encode(chunk))


def shard_index(lengths: Sequence[int]) -> bytes:
    """Encode the end of a shard: offset and length of each chunk, then the CRC-32C of those."""
    offsets = accumulate(lengths[:-1], initial=0)
    entries = np.array(list(zip(offsets, lengths, strict=True)), "<u8").tobytes()
    return entries + int(google_crc32c.value(entries)).to_bytes(4, "little")
