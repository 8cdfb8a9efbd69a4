"""What the ranks of a member agree on, in collectives of a few bytes."""

import contextlib
import io
import re
from collections.abc import Iterator
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from cluster.distributed.meeting import RankLost
from cluster.distributed.place import Place

if TYPE_CHECKING:  # torch's types name it only where it is made
    from torch._C._distributed_c10d import Store

#: A rank may have to wait as long as another one's step or save takes; that a rank is gone shows
#: at once, in a connection that is closed.
_TIMEOUT = timedelta(days=1)

#: How gloo and NCCL say that a rank is gone. A timeout is not among them: there the ranks are
#: well, and wait for each other in different places.
_GONE = re.compile(
    "connection (was likely )?(closed|reset|refused)|broken pipe|socket closed|ncclRemoteError",
    re.IGNORECASE,
)

_WORDS = 8


class Moment(IntEnum):
    """Where a rank is when it confers with the others."""

    START = 1
    RESTORE = 2
    STEP = 3
    SAVE = 4
    LEAVE = 5
    FLAG = 6
    END = 7


class RanksDisagreeError(RuntimeError):
    """Ranks of a member have come to different places in its function."""


class Team:
    """The ranks of a member, joined in a process group.

    ``torch.distributed``'s default group is the user's: gloo for tensors of the host, NCCL for
    those of a GPU. What is agreed on here goes through a group of its own, on the host, so that
    it neither waits for a GPU nor comes between collectives of the user's.

    Args:
        place: Which rank this is.
        store: Where the ranks have met.
    """

    def __init__(self, place: Place, store: "Store") -> None:
        self.place = place
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _as_lost(place):
            dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.ranks)
            self._group = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    def close(self) -> None:
        """Leave the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def agree(self, moment: Moment, *values: int) -> list[int]:
        """The largest of each value over all ranks; every rank has to call it.

        Raises:
            RanksDisagreeError: Another rank is at another moment; raised on all.
            RankLost: A rank is gone.
        """
        words = torch.zeros(_WORDS, dtype=torch.int64)
        words[: len(values) + 2] = torch.tensor([moment, -moment, *values])
        with _as_lost(self.place):
            dist.all_reduce(words, dist.ReduceOp.MAX, self._group)
        last, negated_first, *agreed = words.tolist()
        if last != -negated_first:
            first = Moment(-negated_first)
            raise RanksDisagreeError(
                f"{self.place}: expected all ranks to come to the same calls of the attempt in the "
                f"same order, found one at {first.name} where another is at {Moment(last).name} "
                f"(this one: {moment.name})"
            )
        return agreed[: len(values)]

    def told(self, moment: Moment, value: object) -> Any:
        """The value of rank 0, on every rank; every rank has to call it.

        It is made of what a checkpoint may hold.

        Raises:
            RankLost: A rank is gone.
        """
        self.agree(moment)
        values = [_packed(value) if self.place.rank == 0 else b""]
        with _as_lost(self.place):
            dist.broadcast_object_list(values, 0, self._group)
        return _unpacked(values[0])

    def gather(self, moment: Moment, value: object) -> list[Any]:
        """The values of all ranks, in order, on rank 0; an empty list on the others.

        Raises:
            RankLost: A rank is gone.
        """
        self.agree(moment)
        values = [b""] * self.place.ranks if self.place.rank == 0 else None
        with _as_lost(self.place):
            dist.gather_object(_packed(value), values, 0, self._group)
        return [_unpacked(packed) for packed in values or []]


def is_lost_rank(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that another rank is gone."""
    while error is not None:
        if isinstance(error, RuntimeError) and _GONE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _packed(value: object) -> bytes:
    # pickle alone fails on tensors of bytes, such as the states of generators.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _as_lost(place: Place) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        said = re.sub(r"^\[[^]]*\] ", "", str(error)).partition(". ")[0]
        raise RankLost(f"{place}: another rank is gone ({said})") from error
