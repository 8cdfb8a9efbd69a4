"""What a member's process starts with: its command, its threads, its allocator."""

import os
import sys
from collections.abc import Mapping

#: Each of these libraries would otherwise start a thread for every core of the node.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: glibc returns every large block to the kernel and faults it in again at the next step. A
#: training loop asks for the same sizes over and over: keep them.
ALLOCATOR: Mapping[str, str] = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1099511627776",
    "MALLOC_TOP_PAD_": "268435456",
}

#: cuBLAS is deterministic only with a fixed workspace.
DETERMINISM: Mapping[str, str] = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


#: Variable with the process id of the local pool that a worker belongs to.
LAUNCHER = "YAOKI_LAUNCHER"


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours; ``-P`` keeps the working directory off the path."""
    return [sys.executable, "-P", "-u", "-m", f"cluster.{module}", *arguments]


def member_environment(cpus: int) -> dict[str, str]:
    """Variables that a member's process starts with.

    Args:
        cpus: Cores of the member.

    Returns:
        Thread counts, allocator and determinism settings. A variable that the user has set
        already, apart from thread counts, keeps its value.
    """
    settings = {**ALLOCATOR, **DETERMINISM}
    settings = {name: os.environ.get(name, value) for name, value in settings.items()}
    return settings | dict.fromkeys(THREADS, str(cpus))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
