"""Trajectory files are written whole or not at all.

HDF5 lays out the file, and the values go to their place by ordinary writes: on a full disk the
HDF5 library loses its footing (it fails again on closing and may crash the process at exit), an
ordinary write only raises.
"""

import json
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cluster.records.files import fsync_directory
from pipelines.trajectories.form import (
    FORMAT,
    RESERVED,
    SlowLayoutWarning,
    TrajectoryError,
    check_form,
    refuse_infinite,
)
from pipelines.trajectories.reading import TrajectoryFile, plain

_LAYOUT_ROOM = 1 << 20  # more than HDF5 ever spends on the layout and our attributes


def write_trajectories(
    path: str | Path,
    x: NDArray[np.float32] | Iterable[NDArray[np.float32]],
    attributes: Mapping[str, Any],
    *,
    count: int | None = None,
) -> bool:
    """Write a file of trajectories, which appears whole or not at all.

    Args:
        path: The file to make; its directory is created.
        x: An array (n, T, C, H, W), or an iterable of n arrays (T, C, H, W), consumed one by one
            and only if there is something to write. Finite float32.
        attributes: How ``x`` was made: solver parameters, configuration digest, version, seeds.
            Numbers, strings and booleans are stored as they are, anything else as JSON text.
        count: n, needed where ``x`` has no length.

    Returns:
        False if the file is already there with these attributes, and nothing was done.

    Raises:
        TrajectoryError: If the file is there with other attributes or another shape, if ``x`` is
            of a wrong shape or type, not finite, or shorter or longer than ``count``, or if it
            cannot be written (a full disk). Nothing is published then, nor overwritten.
    """
    path, header = Path(path), _header(attributes)
    count = len(x) if count is None and isinstance(x, np.ndarray | Sequence) else count
    if count is None:
        raise TrajectoryError(f"{path}: an iterable without a length needs `count`")
    if path.exists():
        _check_same(TrajectoryFile(path), header, count)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _fill(temporary, path, iter(x), count, header)
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise TrajectoryError(
            f"{path}: cannot be written ({error}); free some space or write elsewhere; "
            "nothing was published"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


def rewrite(source: str | Path, path: str | Path) -> bool:
    """Write any trajectory file again, contiguous, with the same attributes.

    Raises:
        TrajectoryError: As :func:`write_trajectories` and :class:`TrajectoryFile` do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowLayoutWarning)  # mending it is what we are here for
        file = TrajectoryFile(source)
    attributes = {name: value for name, value in file.attributes.items() if name not in RESERVED}
    steps = file.shape[1]
    trajectories = (file.read(index, 0, steps) for index in range(file.shape[0]))
    return write_trajectories(path, trajectories, attributes, count=file.shape[0])


def _header(attributes: Mapping[str, Any]) -> dict[str, Any]:
    if reserved := RESERVED & attributes.keys():
        raise TrajectoryError(f"the attributes {sorted(reserved)} are reserved; rename them")
    stored = {name: _storable(value) for name, value in attributes.items()}
    return {**stored, "format": FORMAT, "finite": True}


def _storable(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return json.dumps(value, sort_keys=True)


def _check_same(there: TrajectoryFile, header: Mapping[str, Any], count: int) -> None:
    found = {**there.attributes, "(count)": there.shape[0]}
    wanted = {**header, "(count)": count}
    differing = sorted(
        name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    )
    if differing:
        name = differing[0]
        raise TrajectoryError(
            f"{there.path}: is there already and was made otherwise (differing: "
            f"{', '.join(differing)}; {name} is {found.get(name)!r}, wanted "
            f"{wanted.get(name)!r}); move it away or write elsewhere"
        )


def _fill(
    temporary: Path,
    path: Path,
    trajectories: Iterator[NDArray[np.float32]],
    count: int,
    header: Mapping[str, Any],
) -> None:
    first = next(trajectories, None)
    if first is None or count < 1:
        raise TrajectoryError(f"{path}: expected {count} trajectories (>= 1), found none")
    shape, dtype = (count, *np.shape(first)), np.asarray(first).dtype
    check_form(path, shape, dtype)
    _reserve(temporary, int(np.prod(shape)) * dtype.itemsize + _LAYOUT_ROOM)
    offset = _lay_out(temporary, shape, header)
    with temporary.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        file.seek(offset)
        for trajectory in _checked(path, chain([first], trajectories), shape):
            file.write(trajectory.data)
        file.flush()
        os.fsync(file.fileno())


def _reserve(temporary: Path, size: int) -> None:
    """Find out whether the disk has the room, before HDF5 touches it."""
    with temporary.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _lay_out(temporary: Path, shape: tuple[int, ...], header: Mapping[str, Any]) -> int:
    """Make the file with its attributes and an empty, contiguous ``x``; return where x begins."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # equal trajectories make equal bytes
    with h5py.File(temporary, "w") as file:
        file.attrs.update(header)
        space = h5py.h5s.create_simple(shape)
        x = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, layout)
        return int(x.get_offset())


def _checked(
    path: Path, trajectories: Iterable[NDArray[np.float32]], shape: tuple[int, ...]
) -> Iterator[NDArray[np.float32]]:
    index = -1
    for index, item in enumerate(trajectories):
        trajectory = np.ascontiguousarray(item)
        fits = trajectory.shape == shape[1:] and trajectory.dtype == np.dtype("<f4")
        if index >= shape[0] or not fits:
            raise TrajectoryError(
                f"{path}: expected {shape[0]} trajectories {shape[1:]} of float32, found "
                f"{trajectory.shape} of {trajectory.dtype} as number {index + 1}"
            )
        refuse_infinite(path, index, trajectory)
        yield trajectory
    if index + 1 != shape[0]:
        raise TrajectoryError(f"{path}: expected {shape[0]} trajectories, found {index + 1}")
