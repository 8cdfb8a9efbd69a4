"""A disk so small that it is full at once."""

import os
import subprocess
import tempfile
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


@contextmanager
def in_memory() -> Iterator[Path]:
    """A directory on another device, where making bytes durable takes no time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """A directory that not even root can write to, until the end of the block; needs root."""
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", directory], check=True)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(disk: Path) -> Path:
    """Write a file until the disk holds not a byte more, and return it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        free = os.statvfs(disk)
        file.write(b"\0" * (free.f_bavail * free.f_frsize))
    return ballast
