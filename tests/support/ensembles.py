"""A small ensemble, planned and written as members do."""

from pathlib import Path

import numpy as np

from pipelines.ensemble import ArraySpec, Commit, Coordinate, create_ensemble, write_member

MEMBERS = 4
DIGEST = "c0ffee"
ATTRIBUTES = {"title": "a test", "config_digest": DIGEST}
SPECS = (
    ArraySpec(
        "u", (4, 2, 8, 8), ("time", "channel", "y", "x"), units="m s-1", long_name="velocity"
    ),
    ArraySpec("loss", (), (), "float64", long_name="final loss"),
)
TIME = Coordinate("time", 0.2 * np.arange(4), "s", "time")


def plan(run: Path, specs: tuple[ArraySpec, ...] = SPECS, members: int = MEMBERS) -> Path:
    """Plan the ensemble of a run directory; returns its path."""
    run.mkdir(parents=True, exist_ok=True)
    create_ensemble(run / "ensemble.zarr", members, specs, ATTRIBUTES, [TIME])
    return run / "ensemble.zarr"


def values(member: int, specs: tuple[ArraySpec, ...] = SPECS) -> dict[str, np.ndarray]:
    """What a member has to write."""
    rng = np.random.default_rng(member)
    return {s.name: np.asarray(rng.standard_normal(s.shape), s.dtype) for s in specs}


def write(path: Path, member: int, fence: int = 1) -> Commit:
    """Write and commit a member."""
    return write_member(path, member, values(member), {"config_digest": DIGEST, "seed": 7}, fence)


def written(run: Path) -> Path:
    """Plan and write all members; returns the path of the ensemble."""
    path = plan(run)
    for member in range(MEMBERS):
        write(path, member)
    return path


def tree(run: Path) -> dict[str, bytes]:
    """Every file below a directory with its bytes."""
    return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}


def damage(file: Path, how: str) -> None:
    """Delete a file, cut off its last byte, or flip one bit in its middle."""
    content = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1 << (len(content) % 8)
        file.write_bytes(content)
