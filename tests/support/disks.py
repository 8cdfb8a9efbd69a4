"""A disk so small that it is full at once."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(mount_point: Path, kilobytes: int) -> Iterator[Path]:
    """A tmpfs of a few kilobytes, gone again at the end of the block; needs root."""
    mount_point.mkdir()
    size = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(mount_point)], check=True)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


def fill(disk: Path) -> Path:
    """Write a file until the disk holds not a byte more, and return it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        free = os.statvfs(disk)
        file.write(b"\0" * (free.f_bavail * free.f_frsize))
    return ballast
