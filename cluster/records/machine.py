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
    fields = after_name(pid)
    return f"{boot_id()} {fields[19]}" if fields else None


def after_name(pid: int) -> list[str]:
    """What the kernel says of a process after its name: state, parent, ...; empty once it is gone.

    These are the fields of ``proc_pid_stat(5)`` from the third on.
    """
    try:
        # The name, in parentheses, may hold anything: count from the last one.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
