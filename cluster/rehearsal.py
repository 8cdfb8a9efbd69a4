"""A rehearsal: one step of a member, in a directory that is thrown away."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.attempt import Attempt, Interrupted, Work
from cluster.calls import Call
from cluster.execution import invoke
from cluster.records.member import Member
from cluster.stopping.signals import StopFlag


class Rehearsal(Attempt):
    """An attempt that leaves after its first step, and saves on the way out."""

    def steps(self, work: Work) -> Iterator[int]:
        """Yield the first step alone."""
        yield work.steps_done
        self.save(work)
        raise Interrupted


def rehearse(function: str, *arguments: Any) -> float:
    """Take one step of the first member of a stage; returns the seconds it took in all.

    What raises here would have raised on the node: a missing package, a wrong shape, a
    configuration that no network can be built from.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="yaoki-rehearsal-") as directory:
        member = Member(Path(directory), "rehearsal", 0)
        member.directory.mkdir(parents=True)
        attempt = Rehearsal(member, 1, StopFlag(os.getpid()))
        with contextlib.suppress(Interrupted):
            invoke(Call(function, arguments), member, attempt)
    return time.monotonic() - begun
