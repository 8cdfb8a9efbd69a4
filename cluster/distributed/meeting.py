"""How the ranks of an attempt find each other, through the run directory that they share."""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cluster.distributed.place import Place
from cluster.records.files import write_atomic
from cluster.records.machine import boot_id

if TYPE_CHECKING:  # torch's types name it only where it is made
    from torch._C._distributed_c10d import TCPStore
else:
    from torch.distributed import TCPStore

#: How long ranks wait for each other at the start, seconds. A node may have to load its software
#: from a slow disk first, and a file made on another node may be a minute late on NFS.
PATIENCE = 300.0

_POLL_SECONDS = 0.05
_CONNECT_SECONDS = 5.0


class RankLost(BaseException):
    """Another rank of the member is gone, or did not come.

    What became of it is for others to tell. It derives from ``BaseException`` so that a user's
    ``except Exception`` does not swallow it.
    """


@dataclass(frozen=True)
class Invitation:
    """What rank 0 tells the others in a file.

    Attributes:
        attempt: The number of the attempt, or None where there is nothing to do.
        port: Where rank 0 listens.
        machine: Which machine that is.
        hosts: Names and addresses of it, the likeliest first.
        token: What tells its port from another program's.
    """

    attempt: int | None
    port: int = 0
    machine: str = ""
    hosts: tuple[str, ...] = ()
    token: str = ""


class Meeting:
    """Where the ranks of one attempt meet.

    Rank 0 takes any free port and writes it into the member's directory, under a name that only
    the ranks of this attempt look for. No list of nodes has to be resolved.

    Args:
        directory: The member's directory.
        place: Which rank this is.
        patience: How long to wait for the others, seconds.
    """

    def __init__(self, directory: Path, place: Place, patience: float = PATIENCE) -> None:
        self.place = place
        self.patience = patience
        self._file = directory / f"meeting-{place.meeting}.json"
        self._invitation: Invitation | None = None

    def call_off(self) -> None:
        """Tell the other ranks that there is nothing to do."""
        self._publish(Invitation(None))

    def invitation(self) -> Invitation:
        """What rank 0 has to say; waited for.

        Raises:
            RankLost: It did not say anything in time.
        """
        if self._invitation is None:
            self._wait(self._file.exists, lambda: f"rank 0 did not write {self._file}")
            record = json.loads(self._file.read_bytes())
            self._invitation = Invitation(**record | {"hosts": tuple(record["hosts"])})
        return self._invitation

    def join(self, attempt: int) -> TCPStore:
        """Meet the other ranks; returns when all are there.

        Raises:
            RankLost: Some did not come in time, or rank 0 could not be reached.
        """
        store = (
            self._open(attempt) if self.place.rank == 0 else _reach(self.invitation(), self.place)
        )
        store.set(_name(self.place.rank), socket.gethostname())
        missing = set(range(self.place.ranks))

        def all_came() -> bool:
            missing.difference_update([r for r in missing if store.check([_name(r)])])
            return not missing

        self._wait(all_came, lambda: f"of {self.place.ranks} ranks, {sorted(missing)} did not come")
        if self.place.rank == 0:
            self._file.unlink(missing_ok=True)
        return store

    def _open(self, attempt: int) -> TCPStore:
        store = TCPStore("localhost", 0, None, is_master=True, wait_for_workers=False)
        token = secrets.token_hex(8)
        store.set("token", token)
        self._publish(Invitation(attempt, store.port, boot_id(), tuple(_hosts()), token))
        return store

    def _publish(self, invitation: Invitation) -> None:
        for old in self._file.parent.glob("meeting-*.json"):  # of attempts that were killed
            old.unlink(missing_ok=True)
        write_atomic(self._file, json.dumps(asdict(invitation)).encode())

    def _wait(self, condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
        until = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() > until:
                raise RankLost(
                    f"{self.place} on {socket.gethostname()}: {complaint()} within "
                    f"{self.patience:g} s. See the log of the job and of the other ranks."
                )
            time.sleep(_POLL_SECONDS)


def _name(rank: int) -> str:
    return f"rank{rank}"


def _hosts() -> Iterator[str]:
    # Names may resolve to nothing, or to an address that only this machine knows: all are told.
    if "SLURMD_NODENAME" in os.environ:
        yield os.environ["SLURMD_NODENAME"]
    yield socket.gethostname()
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                yield address.address


def _ways_to(invitation: Invitation) -> Iterator[str]:
    if invitation.machine == boot_id():
        yield "127.0.0.1"
    # Slurm tells every task the address of srun, which runs on the node of rank 0.
    if "SLURM_LAUNCH_NODE_IPADDR" in os.environ:
        yield os.environ["SLURM_LAUNCH_NODE_IPADDR"]
    yield from invitation.hosts


def _reach(invitation: Invitation, place: Place) -> TCPStore:
    hosts = list(_ways_to(invitation))
    for host in hosts:
        if not _listens(host, invitation.port):
            continue
        store = TCPStore(host, invitation.port, None, wait_for_workers=False)
        if store.check(["token"]) and store.get("token").decode() == invitation.token:
            return store
    raise RankLost(
        f"{place} on {socket.gethostname()}: expected rank 0 on port {invitation.port} of one of "
        f"{hosts}, found it nowhere. Do the nodes of a job reach each other by TCP?"
    )


def _listens(host: str, port: int) -> bool:
    try:
        with closing(socket.create_connection((host, port), _CONNECT_SECONDS)):
            return True
    except OSError:
        return False
