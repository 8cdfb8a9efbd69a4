"""The planner's part: create the empty store once, whole, for members to fill."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.records.files import fsync_directory, write_atomic
from pipelines.ensemble.documents import EnsembleError, Stored, reported, seal, unseal
from pipelines.ensemble.layout import NAMESPACE, ArraySpec, Coordinate, Layout, group_attributes


def create_ensemble(
    path: Path,
    members: int,
    arrays: Sequence[ArraySpec],
    attributes: Mapping[str, Any],
    coordinates: Sequence[Coordinate] = (),
) -> Layout:
    """Create the store that ``members`` members will write, or recognize the one that is there.

    It appears whole, by one rename, so two planners that race leave one store. Doing it again
    with the same arguments changes nothing.

    Args:
        path: The Zarr group; the markers go to ``commits/`` beside it.
        members: Number of members, at least one.
        arrays: What each member writes.
        attributes: Attributes of the group: JSON values that do not change from run to run.
            ``config_digest``, a text, must be among them: members of another are refused.
        coordinates: Values along the dimensions of the arrays.

    Raises:
        EnsembleError: Another store, or something else, is at ``path``; or it cannot be written.
    """
    specs = {spec.name: spec for spec in arrays}
    if members < 1 or not specs or len(specs) != len(arrays):
        raise EnsembleError(
            f"{path}: expected at least one member and arrays of different names, "
            f"found {members} members and arrays {[spec.name for spec in arrays]}"
        )
    if not isinstance(attributes.get("config_digest"), str):
        raise EnsembleError(f"{path}: attributes need a text `config_digest`, to know its members")
    layout = Layout(path, members, attributes["config_digest"], specs)
    shared = {NAMESPACE: layout.to_json(), "Conventions": "CF-1.11", **attributes}
    with reported(f"creating {path}"):
        layout.commits.mkdir(parents=True, exist_ok=True)
        if _is_free(path):
            _publish(layout, shared, coordinates)
        _check_same(layout, shared)
        _record(layout)
    return layout


def _is_free(path: Path) -> bool:
    """Whether nothing is there, or an empty directory, which a rename replaces."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _publish(layout: Layout, attributes: dict[str, Any], coordinates: Sequence[Coordinate]) -> None:
    from pipelines.ensemble.encoding import planned_files

    path = layout.path
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        for name, content in planned_files(layout, attributes, coordinates).items():
            (temporary / name).parent.mkdir(exist_ok=True)
            write_atomic(temporary / name, content)
        temporary.chmod(0o755)
        temporary.rename(path)
        fsync_directory(path.parent)
    except OSError:
        # A rename onto a directory that another planner has filled is a race lost, not a fault.
        if not (path / "zarr.json").exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_same(layout: Layout, attributes: dict[str, Any]) -> None:
    found = group_attributes(layout.path)
    wanted = json.loads(json.dumps(attributes))
    different = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if NAMESPACE not in found:
        raise EnsembleError(f"{layout.path}: not a {NAMESPACE} ensemble; choose another directory")
    if different:
        raise EnsembleError(
            f"{layout.path}: belongs to another job: {', '.join(different)} differ "
            f"(configuration {found.get('config_digest')!r}, expected {layout.config_digest!r}); "
            "choose another directory"
        )


def _record(layout: Layout) -> None:
    """Write down the digests of the planner's files, unless that is done."""
    described = layout.to_json()
    try:
        found = unseal(layout.record)
        if found | described == found:
            return
    except (FileNotFoundError, EnsembleError):
        pass
    planned = [layout.path / "zarr.json", *layout.path.glob("*/zarr.json")]
    planned += [chunk for chunk in layout.path.glob("*/c.0") if _is_coordinate(layout, chunk)]
    files = {
        str(file.relative_to(layout.path)): asdict(Stored.of(file.read_bytes())) for file in planned
    }
    write_atomic(layout.record, seal(described | {"files": files}))


def _is_coordinate(layout: Layout, chunk: Path) -> bool:
    # `valid` is written by collect, and a scalar array's shard of member 0 is also named `c.0`.
    return chunk.parent.name != "valid" and chunk.parent.name not in layout.arrays
