"""A memory cgroup of our own, in which the kernel kills what grows beyond a limit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.slurmbox.cgroups import ROOT, MemoryControl, detect


@contextmanager
def memory_group(name: str, limit: int) -> Iterator[Path]:
    """The ``cgroup.procs`` of a new group while the block lasts; its processes must end in it.

    Args:
        name: Of the group.
        limit: Bytes.
    """
    control = detect()
    assert control is not MemoryControl.POLLING, "expected a memory cgroup that can be written to"
    second = control is MemoryControl.V2
    group = (ROOT if second else ROOT / "memory") / f"yaoki_{name}_{os.getpid()}"
    if second:
        (ROOT / "cgroup.subtree_control").write_text("+memory")
    group.mkdir()
    try:
        (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(limit))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
