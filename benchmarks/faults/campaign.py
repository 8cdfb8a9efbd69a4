"""One contender under one schedule of faults."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

from benchmarks.faults.contender import Contender
from benchmarks.faults.dealing import Dealer
from benchmarks.faults.disk import small_disks
from benchmarks.faults.drive import Drive, Queue
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.schedule import Fault, of_member
from benchmarks.faults.work import Terms
from cluster.scheduler import slurm


def run_campaign(
    contender: Contender, terms: Terms, dealer: Dealer, faults: Sequence[Fault], seconds: float
) -> list[Outcome]:
    """Submit all members, deal the faults, and wait until every member has ended for good.

    Args:
        contender: The tool.
        terms: What it is given.
        dealer: Deals the faults.
        faults: The schedule.
        seconds: After this long whoever has not finished is given up.
    """
    members = range(terms.members)
    with ExitStack() as stack:
        stack.enter_context(small_disks([contender.disk(member) for member in members]))
        contender.submit()
        stack.callback(_cancel, contender, terms)
        queue, deadline = Queue(contender, terms.members), time.time() + seconds
        drives = [
            Drive(contender, terms, dealer, queue, m, of_member(faults, m), deadline)
            for m in members
        ]
        threads = stack.enter_context(ThreadPoolExecutor(terms.members))
        # Before the threads are waited for: an interrupted campaign has no time for its members.
        stack.callback(_give_up, drives)
        return list(threads.map(Drive.run, drives))


def _give_up(drives: Sequence[Drive]) -> None:
    for drive in drives:
        drive.deadline = 0.0


def _cancel(contender: Contender, terms: Terms) -> None:
    with suppress(slurm.SlurmError):  # it has ended
        slurm.cancel([contender.job(member) for member in range(terms.members)])
