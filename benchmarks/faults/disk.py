"""A disk of its own for a member's checkpoints, so small that it can be filled."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

MEGABYTES = 8
_BALLAST = ".ballast"


@contextlib.contextmanager
def small_disks(places: Sequence[Path]) -> Iterator[None]:
    """A tmpfs in each place, gone again at the end of the block; needs root."""
    mounted = []
    try:
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            size = f"size={MEGABYTES}m"
            command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]
            subprocess.run(command, check=True)
            mounted.append(place)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Take every byte that is left."""
    with (disk / _BALLAST).open("wb", buffering=0) as file:
        free = os.statvfs(disk)
        file.write(b"\0" * (free.f_bavail * free.f_frsize))


def clear(disk: Path) -> None:
    """Give the space back."""
    (disk / _BALLAST).unlink(missing_ok=True)


def newest_checkpoint(disk: Path) -> Path | None:
    """The file of a checkpoint that was written last."""
    files = [path for path in disk.rglob("[!.]*") if path.suffix in (".pt", ".ckpt")]
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)


def tear(path: Path) -> None:
    """Leave the first half of a file, as a write does that a power failure cut short."""
    os.truncate(path, path.stat().st_size // 2)
