"""What an ensemble holds and where: array specifications and paths."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.ensemble.documents import EnsembleError, FormatError, reported, unseal

FORMAT = 1
NAMESPACE = "yaoki"
_RESERVED = ("member", "valid")
_DTYPES = ("float16", "float32", "float64")
_CHUNK_BYTES = 2**20
_HDF5 = b"\x89HDF\r\n\x1a\n"

Codec = Literal["none", "lz4-bitshuffle"]


@dataclass(frozen=True)
class ArraySpec:
    """One array of the ensemble, as a single member writes it.

    Args:
        name: Letters, digits and underscores.
        shape: Shape of one member; the stored array is ``(members, *shape)``.
        dims: A name for each axis of ``shape``.
        dtype: ``float16``, ``float32`` or ``float64``: a member that is absent reads as NaN.
        units: UDUNITS text, ``1`` for none.
        long_name: What the array is, for people and plots.
        chunks: Shape of what a reader fetches at once; it divides ``shape``. Default: near 1 MiB.
        codec: ``none``, or ``lz4-bitshuffle`` (Blosc) where space is dearer than time.
        keep_bits: Explicit mantissa bits to keep; the others are rounded away, and the array says
            so. Default: every value is stored as it is.

    Raises:
        EnsembleError: Some of this does not hold.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: str = "float32"
    units: str = "1"
    long_name: str = ""
    chunks: tuple[int, ...] | None = None
    codec: Codec = "none"
    keep_bits: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*", self.name, re.ASCII) or self.name in _RESERVED:
            raise EnsembleError(f"array {self.name!r}: not a name, or one of {_RESERVED}")
        if len(self.dims) != len(self.shape) or min(self.shape, default=1) < 1:
            raise EnsembleError(
                f"array {self.name}: {len(self.dims)} dims for shape {self.shape}: "
                "expected one name for each axis, and no empty axis"
            )
        if self.dtype not in _DTYPES:
            raise EnsembleError(f"array {self.name}: dtype {self.dtype!r}, expected {_DTYPES}")
        if len(self.inner) != len(self.shape) or any(
            chunk < 1 or size % chunk for size, chunk in zip(self.shape, self.inner, strict=True)
        ):
            raise EnsembleError(
                f"array {self.name}: chunks {self.chunks} do not divide shape {self.shape}"
            )

        mantissa = int(np.finfo(self.dtype).nmant)
        if self.keep_bits is not None and not 1 <= self.keep_bits < mantissa:
            raise EnsembleError(
                f"array {self.name}: keep_bits {self.keep_bits}, expected 1 to {mantissa - 1} of "
                f"the {mantissa} bits of {self.dtype}, or None to round nothing"
            )

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "ArraySpec":
        """Read a specification out of a document, where tuples are lists."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in found.items()
        }
        return cls(**plain)

    def to_json(self) -> dict[str, Any]:
        """Describe it for a document; without rounding, as format 1 has always done."""
        described = asdict(self) | {"chunks": self.inner}
        return {k: v for k, v in described.items() if (k, v) != ("keep_bits", None)}

    @property
    def inner(self) -> tuple[int, ...]:
        """Shape of an inner chunk, without the member axis."""
        if self.chunks is not None:
            return self.chunks
        return default_chunks(self.shape, np.dtype(self.dtype).itemsize)

    def shard(self, member: int) -> str:
        """Path of a member's shard inside the store."""
        return f"{self.name}/c." + ".".join([str(member), *("0" for _ in self.shape)])


@dataclass(frozen=True)
class Coordinate:
    """Values along a dimension that the arrays share: ``name`` is the dimension's name."""

    name: str
    values: NDArray[Any]
    units: str = "1"
    long_name: str = ""


@dataclass(frozen=True)
class Layout:
    """Where everything about one ensemble lies, and which configuration it belongs to."""

    path: Path
    members: int
    config_digest: str
    arrays: dict[str, ArraySpec]

    @property
    def commits(self) -> Path:
        """Directory of the markers, beside the store: Zarr tools never see them."""
        return self.path.parent / "commits"

    @property
    def record(self) -> Path:
        """Sealed document on the files that the planner wrote."""
        return self.commits / "layout.json"

    @property
    def manifest(self) -> Path:
        """Sealed document on everything that ``collect`` found whole."""
        return self.commits / "manifest.json"

    def commit(self, member: int) -> Path:
        """Path of a member's marker."""
        return self.commits / f"{member:04d}.json"

    def shards(self, member: int) -> list[str]:
        """Paths, inside the store, of all that a member writes."""
        return [spec.shard(member) for spec in self.arrays.values()]

    def to_json(self) -> dict[str, Any]:
        """Describe the ensemble, in what a JSON document can hold."""
        arrays = {name: spec.to_json() for name, spec in self.arrays.items()}
        described = {"members": self.members, "config_digest": self.config_digest}
        plain: dict[str, Any] = json.loads(json.dumps(described | {"arrays": arrays}))
        return plain | {"format": FORMAT}


def default_chunks(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Choose chunks near 1 MiB that divide ``shape``: trailing axes whole, leading axes cut."""
    chunks: list[int] = []
    size = itemsize
    for length in reversed(shape):
        divisors = [d for d in range(1, length + 1) if length % d == 0]
        chunks.append(min(divisors, key=lambda d: abs(math.log(size * d / _CHUNK_BYTES))))
        size *= chunks[-1]
    return tuple(reversed(chunks))


def read_layout(path: Path) -> Layout:
    """Read what an ensemble holds, from its sealed record or else from the group's attributes.

    Raises:
        EnsembleError: Nothing is there, it is another program's store, or it cannot be read.
    """
    _check_place(path)
    try:
        found = unseal(Layout(path, 0, "", {}).record)
    except (EnsembleError, FileNotFoundError):
        found = group_attributes(path).get(NAMESPACE, {})
    return _layout_from_json(path, found)


def _check_place(path: Path) -> None:
    """Refuse what lies where an ensemble should be and is something else."""
    found = None
    if path.is_file():
        with reported(f"reading {path}"), path.open("rb") as file:
            found = "an HDF5 file" if file.read(len(_HDF5)) == _HDF5 else "a file"
    elif not (path / "zarr.json").exists():
        v2 = any((path / name).exists() for name in (".zgroup", ".zarray", ".zmetadata"))
        found = "a Zarr v2 store" if v2 else None
    if found is not None:
        raise EnsembleError(
            f"{path}: expected the directory of an ensemble (Zarr v3), found {found}; "
            "move it away, or choose another directory"
        )


def group_attributes(path: Path) -> dict[str, Any]:
    """Read the attributes of a Zarr group without Zarr; EnsembleError where it is none."""
    _check_place(path)
    metadata = path / "zarr.json"
    if not metadata.exists():
        found = "a directory without zarr.json" if path.exists() else "nothing"
        raise EnsembleError(
            f"{path}: no Zarr group here: expected an ensemble, found {found}; "
            "plan the run first, or choose another directory"
        )
    try:
        with reported(f"reading {metadata}"):
            document = json.loads(metadata.read_bytes())
        attributes = document["attributes"] if document["node_type"] == "group" else {}
    except (ValueError, KeyError, TypeError) as error:
        raise EnsembleError(f"{metadata}: not the metadata of a Zarr v3 group: {error}") from error
    return dict(attributes)


def _layout_from_json(path: Path, found: Any) -> Layout:
    if not found:
        raise EnsembleError(
            f"{path}: a Zarr store, but not a {NAMESPACE} ensemble; name another directory"
        )
    try:
        if found["format"] != FORMAT:
            raise FormatError(path, found["format"], FORMAT)
        arrays = {name: ArraySpec.from_json(spec) for name, spec in found["arrays"].items()}
        return Layout(path, int(found["members"]), str(found["config_digest"]), arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EnsembleError(
            f"{path}: expected the description of an ensemble, found another ({error!r}); "
            "name another directory"
        ) from error
