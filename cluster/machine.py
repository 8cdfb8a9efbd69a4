"""This machine since it was started, and when its processes began.

By ticks since the start, not by the time of day: that changes whenever the clock is set or the
machine was asleep, and with it the time at which ``psutil`` says that a process was created.
"""

from pathlib import Path


def boot_id() -> str:
    """What the kernel drew when this machine was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def birth(pid: int) -> str | None:
    """When a process of this machine began; None where there is none.

    Two processes of one number never have the same.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, a name in parentheses, may hold anything: count from its end.
    return f"{boot_id()} {stat.rpartition(')')[2].split()[19]}"
