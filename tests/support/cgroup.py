"""A program in a memory cgroup of its own."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.slurmbox.cgroups import ROOT, MemoryControl, detect


def run_limited(command: Sequence[str], mebibytes: int) -> "subprocess.CompletedProcess[str]":
    """Run a program that the kernel kills when it needs more memory; its status is then -9."""
    with _group(mebibytes * 2**20) as enter:
        # The shell goes in and becomes the program: nothing of it is ever outside.
        script = f'{enter} && exec "$@"'
        return subprocess.run(
            ["sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False
        )


@contextmanager
def _group(size: int) -> Iterator[str]:
    """What a shell has to do to be limited."""
    control = detect()
    if control is MemoryControl.POLLING:  # nobody lets us make groups here
        yield f"ulimit -d {size // 1024}"
        return
    v1 = control is MemoryControl.V1
    group = (ROOT / "memory" if v1 else ROOT) / f"yaoki_test_{os.getpid()}"
    group.mkdir()
    try:
        limit, swap = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if not v1:
            limit, swap = "memory.max", "memory.swap.max"
        (group / limit).write_text(str(size))
        _write_if_there(group / swap, str(size if v1 else 0))
        yield f"echo $$ > {group}/cgroup.procs"
    finally:
        group.rmdir()


def _write_if_there(file: Path, content: str) -> None:
    if file.exists():
        file.write_text(content)
