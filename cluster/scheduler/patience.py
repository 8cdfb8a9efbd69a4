"""Asking again what Slurm could not answer just now."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from cluster.scheduler.slurm import SlurmBusyError

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How often a command is tried, and how long the pauses between become.

    A pause doubles each time up to a longest one. A random part is taken off each: many members
    or users that a restart of the controller has stopped would else come back at the same moment.

    Args:
        tries: How often a command is tried in all.
        first: The longest that the first pause may be, in seconds.
        longest: The longest that any may be, in seconds.
    """

    tries: int = 8
    first: float = 2.0
    longest: float = 30.0

    def pauses(self) -> Iterator[float]:
        """The seconds to wait after each try but the last."""
        for doublings in range(self.tries - 1):
            yield min(self.longest, self.first * 2**doublings) * random.uniform(0.5, 1.0)

    def persist(self, action: Callable[[], T]) -> T:
        """Do something, and do it again after a pause as long as Slurm is busy.

        Raises:
            SlurmBusyError: It still was at the last try.
            SlurmError: Slurm refused; that is never tried again.
        """
        for pause in self.pauses():
            try:
                return action()
            except SlurmBusyError:
                time.sleep(pause)
        return action()


#: A minute and a half to two, which a restart of the controller fits into.
PATIENCE = Patience()
