"""How a rank that does not write the ledger tells why the attempt has to end.

Each leaves a note of its own, for rank 0 may be dead, or wait for the dead. The note is read by
whoever settles the attempt: the exit trap of the batch script, the local pool, the next attempt.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.calls import Outcome
from cluster.cause import Cause
from cluster.records.files import write_atomic
from cluster.records.member import Member


@dataclass(frozen=True)
class Failure:
    """Why a rank has left its attempt.

    Attributes:
        attempt: The attempt's number.
        rank: The rank.
        time: When, seconds since the epoch.
        error: What it raised, as text.
        cause: Why the attempt ends, or None where another rank is gone and may know better.
    """

    attempt: int
    rank: int
    time: float
    error: str
    cause: Cause | None = None

    def save(self, member: Member, outcome: Outcome | None = None) -> None:
        """Write it durably, after the outcome that it tells of."""
        path = _folder(member) / f"{self.attempt:04d}-rank{self.rank}.json"
        path.parent.mkdir(exist_ok=True)
        if outcome is not None:
            outcome.write(path.with_suffix(".pkl"))
        write_atomic(path, json.dumps(asdict(self)).encode())

    def publish(self, member: Member) -> None:
        """Make its outcome the attempt's."""
        path = _folder(member) / f"{self.attempt:04d}-rank{self.rank}.pkl"
        write_atomic(member.result_file, path.read_bytes())


def failed(member: Member, attempt: int, rank: int, cause: Cause, outcome: Outcome) -> None:
    """Note that a rank has failed."""
    error = f"rank {rank}: {outcome.error}"[:2000]
    Failure(attempt, rank, time.time(), error, cause).save(member, outcome)


def lost(member: Member, attempt: int, rank: int, why: BaseException) -> None:
    """Note that a rank has lost another."""
    Failure(attempt, rank, time.time(), str(why)[:2000]).save(member)


def settled(member: Member, attempt: int, cause: Cause) -> tuple[Cause, dict[str, str]]:
    """The cause of an attempt's end, after what its ranks have said of it.

    The first rank to fail says why: the others only follow, or are killed because they cannot.

    Args:
        member: Whose attempt it is.
        attempt: The attempt's number.
        cause: What is known without them.

    Returns:
        The cause, and ``error`` for the note of the end where a rank has told one.
    """
    failures = sorted(_failures(member, attempt), key=lambda failure: failure.time)
    if not failures or cause not in (Cause.KILLED, Cause.ERROR):
        return cause, {}
    for failure in failures:
        if failure.cause is not None:
            failure.publish(member)
            return failure.cause, {"error": failure.error}
    # No rank has raised. Where none was killed either, a node or the network has failed.
    found = Cause.NODE_FAILURE if cause is Cause.ERROR else cause
    return found, {"error": failures[0].error}


def _failures(member: Member, attempt: int) -> list[Failure]:
    notes = []
    for path in _folder(member).glob(f"{attempt:04d}-rank*.json"):
        record = json.loads(path.read_bytes())
        cause = None if record["cause"] is None else Cause(record["cause"])
        notes.append(Failure(**record | {"cause": cause}))
    return notes


def _folder(member: Member) -> Path:
    return member.directory / "failures"
