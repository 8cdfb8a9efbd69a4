"""How many array elements this cluster takes: in one array, and in the queue at once.

Slurm counts every element of an array as a submitted job from sbatch to its end, and one that
waits for another as well. So no dependency between arrays helps where there are too many at once.
"""

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.scheduler import slurm
from cluster.scheduler.accounting import Books, SubmitLimit

#: What MaxArraySize is unless a cluster says otherwise; used for a plan made without Slurm.
DEFAULT_MAX_ARRAY_SIZE = 1001


class SubmitLimitError(slurm.SlurmError):
    """More members than Slurm takes from this user at once."""


@dataclass(frozen=True)
class Limits:
    """What this cluster takes of arrays.

    Attributes:
        array_size: One more than the largest index of an element.
        submit: Bounds on what is in the queue at once.
    """

    array_size: int = DEFAULT_MAX_ARRAY_SIZE
    submit: tuple[SubmitLimit, ...] = ()

    def chunk(self, members: int) -> int:
        """How many elements an array may have where so many members are to be sent.

        Members that can never be in the queue together go in halves of what fits: while one
        half runs, the next waits for its turn.
        """
        most = min((limit.jobs for limit in self.submit), default=members)
        return self.array_size if members <= most else max(1, min(self.array_size, most // 2))

    def can_ever_hold(self, members: int) -> bool:
        """Whether so many members fit into a queue with nothing else in it."""
        return all(members <= limit.jobs for limit in self.submit)

    def shortage(self, members: int) -> str | None:
        """What keeps so many members out of the queue now, or None.

        Raises:
            SlurmError: Slurm did not answer.
        """
        for limit in self.submit:
            taken = limit.taken()
            if taken + members > limit.jobs:
                return f"{limit.name} is {limit.jobs}, of which {taken} are taken"
        return None


def ask(account: str | None = None, qos: str | None = None, partition: str | None = None) -> Limits:
    """Ask Slurm for the limits that hold for the jobs of this user.

    Bounds on the queue are known from its accounting. Where that is missing or does not answer
    none are known, and it is sbatch that refuses what is too much.

    Args:
        account: The account that the jobs name, if they name one.
        qos: Their QOS, likewise.
        partition: Their partition, or several between commas, likewise.

    Raises:
        SlurmError: The controller did not answer, or takes no arrays at all.
    """
    config = slurm.configuration()
    size = _array_size(config)
    enforced = re.split(r"\W+", config.get("AccountingStorageEnforce", "none").lower())
    if not {"limits", "safe", "all"} & set(enforced):
        return Limits(size)
    books = Books(config.get("ClusterName", ""), getpass.getuser())
    try:
        return Limits(size, tuple(books.submit_limits(account, qos, partition)))
    except slurm.SlurmError:
        return Limits(size)


def _array_size(config: Mapping[str, str]) -> int:
    size = int(config.get("MaxArraySize", DEFAULT_MAX_ARRAY_SIZE))
    # A site may bound the elements of an array below their largest index.
    fewer = re.search(r"\bmax_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    size = min(size, int(fewer[1])) if fewer else size
    if size < 1:
        raise slurm.SlurmError(
            f"MaxArraySize: expected at least 1, found {size}: this Slurm takes no job arrays. "
            "Ask its administrator for them, or use '--backend local'."
        )
    return size
