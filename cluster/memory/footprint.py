"""What a process has used by now: memory and processor time."""

import os
import re
from pathlib import Path


def peak_memory() -> int:
    """The most memory that this process has had resident, in MiB.

    Not ``ru_maxrss``: that one is handed on through ``exec``, so a worker would report the size
    of the session that started it.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def processor_seconds() -> float:
    """Processor time of this process and of the children that it has waited for, seconds."""
    return sum(os.times()[:4])
