"""Shards against Zarr itself, which reads what was written here as if it had written it."""

import io
from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from pipelines.ensemble import ArraySpec
from pipelines.ensemble.documents import Stored
from pipelines.ensemble.encoding import planned_files
from pipelines.ensemble.layout import Codec, Layout
from pipelines.ensemble.shards import Shard


@st.composite
def specs(draw: st.DrawFn) -> ArraySpec:
    axes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=4))
    chunks = tuple(chunk for chunk, _ in axes)
    codec: Codec = draw(st.sampled_from(["none", "lz4-bitshuffle"]))
    return ArraySpec(
        "u",
        tuple(chunk * times for chunk, times in axes),
        tuple(f"d{axis}" for axis in range(len(axes))),
        draw(st.sampled_from(["float16", "float32", "float64"])),
        chunks=chunks,
        codec=codec,
    )


def content(shard: Shard) -> bytes:
    file = io.BytesIO()
    shard.write(file)
    return file.getvalue()


def store_of(spec: ArraySpec, shard: bytes | None = None) -> dict[str, Buffer]:
    files = planned_files(Layout(Path("e.zarr"), 1, "digest", {"u": spec}), {}, ())
    if shard is not None:
        files[spec.shard(0)] = shard
    return {n: default_buffer_prototype().buffer.from_bytes(b) for n, b in files.items()}


@settings(deadline=None)  # a busy machine is no fault
@given(specs(), st.integers(0, 2**32 - 1))
def test_zarr_reads_a_shard_as_if_it_had_written_it(spec: ArraySpec, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(spec.shape).astype(spec.dtype)
    shard = Shard.encode(spec, values)
    array = zarr.open_array(MemoryStore(store_of(spec, content(shard))), path="u", mode="r")
    np.testing.assert_array_equal(array[0], values)
    assert shard.stored == Stored.of(content(shard))
    theirs = store_of(spec)
    zarr.open_array(MemoryStore(theirs), path="u", mode="r+")[0] = values
    assert len(theirs[spec.shard(0)].to_bytes()) == len(content(shard))


@settings(deadline=None)  # a busy machine is no fault
@given(specs(), st.integers(0, 2**32 - 1))
def test_how_values_lie_in_memory_does_not_matter(spec: ArraySpec, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(spec.shape).astype(spec.dtype)
    turned = np.asfortranarray(values)
    assert content(Shard.encode(spec, turned)) == content(Shard.encode(spec, values))


def test_values_in_their_own_order_are_not_copied() -> None:
    spec = ArraySpec("u", (8, 4, 4), ("t", "y", "x"), chunks=(2, 4, 4))
    values = np.zeros(spec.shape, "float32")
    *chunks, _index = Shard.encode(spec, values).parts
    assert all(np.shares_memory(np.frombuffer(chunk, np.uint8), values) for chunk in chunks)
