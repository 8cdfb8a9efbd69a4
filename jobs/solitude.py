"""One launcher at a time: the lock that whoever starts members of a run directory holds."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cluster.stage import RunError
from cluster.status import MemberStatus, State, run_status

_NAME = "launcher.lock"


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold the lock of a run for the time of the block; the kernel frees it if we are killed.

    Raises:
        RunError: Another launcher holds it.
    """
    with (run / _NAME).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{run}: expected to be the only launcher, found another one at work here. "
                "Follow it with 'yaoki status --watch', or end it first."
            ) from error
        yield


def is_launched(run: Path) -> bool:
    """Whether a launcher is at work on a run."""
    try:
        with (run / _NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def seen_status(run: Path) -> list[MemberStatus]:
    """The status of every member; one that waits for a launcher which is gone is lost.

    Raises:
        SlurmError: Members are on Slurm, and Slurm does not answer.
    """
    members = run_status(run)
    # A run without a plan is an executor's, whose process holds no lock.
    if is_launched(run) or not (run / "plan.yaml").exists():
        return members
    return [_orphaned(m) if waits_for_launcher(m) else m for m in members]


def waits_for_launcher(member: MemberStatus) -> bool:
    """Whether a member is to be started by a launcher on this machine, and not by Slurm."""
    return member.job_id is None and member.state in (State.QUEUED, State.WAITING)


def _orphaned(member: MemberStatus) -> MemberStatus:
    detail = "what should have started it is gone; 'yaoki retry' goes on"
    return replace(member, state=State.LOST, detail=detail)
