"""Zarr's part: encode the planner's metadata to bytes in memory.

Zarr never touches the disk here. The bytes that leave are digested before they are written and
are written durably, neither of which Zarr's own store does.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding
from zarr.storage import MemoryStore

from pipelines.ensemble.layout import ArraySpec, Coordinate, Layout

Array = NDArray[Any]
# One directory an array and no directory a shard: inodes are what parallel file systems run out of.
_KEYS = DefaultChunkKeyEncoding(separator=".")


def planned_files(
    layout: Layout, attributes: Mapping[str, Any], coordinates: Sequence[Coordinate]
) -> dict[str, bytes]:
    """Encode the group, its empty arrays and its coordinates; a path in the store to its bytes."""
    files: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3, attributes=dict(attributes))
    for spec in layout.arrays.values():
        _create_array(group, spec, layout.members)
    members = Coordinate("member", np.arange(layout.members), long_name="ensemble member")
    for coordinate in (members, *coordinates):
        _create_coordinate(group, coordinate)
    _create_mask(group, layout.members)
    return consolidated({name: content.to_bytes() for name, content in files.items()})


def _create_array(group: zarr.Group, spec: ArraySpec, members: int) -> "zarr.Array[Any]":
    codec = BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=np.dtype(spec.dtype).itemsize)
    return group.create_array(
        spec.name,
        shape=(members, *spec.shape),
        shards=(1, *spec.shape),
        chunks=(1, *spec.inner),
        dtype=spec.dtype,
        fill_value=float("nan"),
        compressors=None if spec.codec == "none" else codec,
        filters=None,
        chunk_key_encoding=_KEYS,
        dimension_names=("member", *spec.dims),
        attributes=_attributes(spec),
        # A shard is a file even where every value is NaN: absent files would read alike.
        config={"write_empty_chunks": True},
    )


def _attributes(spec: ArraySpec) -> dict[str, Any]:
    plain = {"units": spec.units, "long_name": spec.long_name, "coordinates": "valid"}
    # The name that CF 1.12 gives to the bits that rounding has kept.
    return plain | ({} if spec.keep_bits is None else {"quantization_nsb": spec.keep_bits})


def _create_coordinate(group: zarr.Group, coordinate: Coordinate) -> None:
    attributes = {"units": coordinate.units, "long_name": coordinate.long_name}
    array = _create_vector(group, coordinate.name, np.asarray(coordinate.values), attributes)
    array[:] = coordinate.values


def _create_mask(group: zarr.Group, members: int) -> None:
    attributes = {"long_name": "member is whole and verified"}
    _create_vector(group, "valid", np.zeros(members, bool), attributes, dimension="member")


def _create_vector(
    group: zarr.Group, name: str, like: Array, attributes: dict[str, Any], dimension: str = ""
) -> "zarr.Array[Any]":
    return group.create_array(
        name,
        shape=like.shape,
        chunks=like.shape,
        dtype=like.dtype,
        compressors=None,
        filters=None,
        chunk_key_encoding=_KEYS,
        dimension_names=(dimension or name,),
        attributes=attributes,
        config={"write_empty_chunks": True},
    )


def consolidated(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Copy the arrays' metadata into the group's, so that opening reads one small file.

    Done here rather than by Zarr at the end: all of it is known now, and metadata that never
    changes can be proved by its digest at any time.
    """
    children = {
        name.removesuffix("/zarr.json"): json.loads(content)
        for name, content in sorted(files.items())
        if name.endswith("/zarr.json")
    }
    inline = {"kind": "inline", "must_understand": False, "metadata": children}
    root = json.loads(files["zarr.json"]) | {"consolidated_metadata": inline}
    return dict(files) | {"zarr.json": json.dumps(root, indent=2).encode()}
