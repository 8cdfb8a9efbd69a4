"""The fence: of two attempts of one member, only the newer one writes.

A node that is cut off from Slurm may go on working while its members are started elsewhere, and
nothing can reach it to end them. A lock would not do: network file systems differ in how they
keep one, and a process that hangs would keep it from the newer attempt. So the ledger decides,
which only ever grows: an attempt that finds a newer one in it has lost the member, changes nothing
more, and leaves.
"""

from cluster.records.files import fresh_size
from cluster.records.ledger import Ledger


class Superseded(BaseException):
    """A newer attempt of the member has started; this one has to leave without writing.

    It derives from ``BaseException`` so that a user's ``except Exception`` does not swallow it.
    """


class Fence:
    """Tells an attempt whether it is still its member's newest.

    Args:
        ledger: The member's.
        number: The attempt's.
    """

    def __init__(self, ledger: Ledger, number: int) -> None:
        self._ledger = ledger
        self._number = number
        self._seen = -1

    def check(self) -> None:
        """Look whether the ledger has grown, and if so whether by a newer attempt.

        Raises:
            Superseded: It has.
            OSError: The ledger cannot be read.
        """
        size = fresh_size(self._ledger.path)
        if size == self._seen:
            return
        newest = self._ledger.attempt_count()
        if newest > self._number:
            raise Superseded(
                f"attempt {self._number} leaves and writes nothing more: attempt {newest} has "
                "started meanwhile, and the member is its"
            )
        self._seen = size
