"""The local backend: a bounded pool of processes with the same signals, requeue and budgets."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import psutil

from cluster.aftermath import settle
from cluster.environment import LAUNCHER, available_cores, member_environment, module_command
from cluster.records.ledger import here
from cluster.records.member import Member
from cluster.stage import Stage, wants_another_attempt

_POLL_SECONDS = 0.05


def pool_size(cpus: int, wanted: int | None = None) -> int:
    """How many members run at once: as many as the cores hold, or fewer where asked."""
    fits = max(1, available_cores() // cpus)
    return fits if wanted is None else max(1, min(wanted, fits))


def ask_to_leave(member: Member) -> None:
    """Ask the worker of a member that runs on this machine to save and leave."""
    attempts = member.ledger.attempts()
    if not attempts or attempts[-1].cause is not None:
        return
    where = attempts[-1].where
    with contextlib.suppress(psutil.NoSuchProcess):
        # The process id may be someone else's by now: only a worker of this run is signalled.
        worker = psutil.Process(int(where["pid"]))
        if where["host"] == socket.gethostname() and str(member.run) in worker.cmdline():
            worker.terminate()


class LocalPool:
    """Runs members of a stage in child processes, a few at a time.

    Each child has a session of its own: the terminal's Ctrl-C reaches the pool alone, which then
    asks every child to save and leave.

    Args:
        stage: The stage and its rules.
        workers: Children at once; by default as many as the cores hold.
    """

    def __init__(self, stage: Stage, workers: int | None = None) -> None:
        self.stage = stage
        self.workers = pool_size(stage.cpus * stage.tasks, workers)
        self._waiting: deque[Member] = deque()
        self._running: dict[subprocess.Popen[bytes], tuple[Member, int]] = {}
        self._leaving = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, members: Iterable[Member]) -> None:
        """Queue members and start working on them in the background."""
        with self._lock:
            self._waiting.extend(members)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="yaoki-pool")
                self._thread.start()

    def wait(self, watch: Callable[[], None] = lambda: None) -> None:
        """Wait until every member is done, calling ``watch`` from time to time.

        Ctrl-C and TERM ask the children to save and leave, and are raised again once they have.
        """
        try:
            while self.busy():
                watch()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self.leave()
            raise

    def busy(self) -> bool:
        """Whether a member waits or runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def leave(self) -> None:
        """Start nothing more, ask the children to save and leave, and wait until they have."""
        with self._lock:
            self._leaving = True
            self._waiting.clear()
            for child in self._running:
                child.send_signal(signal.SIGTERM)
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._start_some()
                if not self._running and not self._waiting:
                    self._thread = None  # under the lock: add() starts another from here on
                    return
                ended = [child for child in self._running if child.poll() is not None]
                for child in ended:
                    self._settle(child)
            if not ended:
                time.sleep(_POLL_SECONDS)

    def _start_some(self) -> None:
        while self._waiting and len(self._running) < self.workers:
            member = self._waiting.popleft()
            attempts = member.ledger.attempt_count()
            self._running[self._spawn(member)] = (member, attempts)

    def _spawn(self, member: Member) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        environment |= member_environment(self.stage.cpus) | {LAUNCHER: str(os.getpid())}
        member.logs.mkdir(parents=True, exist_ok=True)
        module = "worker" if self.stage.tasks == 1 else "distributed.tasks"
        # What is printed before the attempt opens its own log, a failing import for one.
        with (member.logs / "launch.log").open("ab") as log:
            return subprocess.Popen(
                module_command(module, str(self.stage.run), self.stage.name, str(member.index)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _settle(self, child: subprocess.Popen[bytes]) -> None:
        member, attempts_before = self._running.pop(child)
        if member.ledger.attempt_count() == attempts_before and child.returncode != 0:
            # It ended before it could open an attempt; note one, or it would be tried for ever.
            member.ledger.start(here())
        if _is_newest(member, child.pid):
            settle(member, child.returncode, log=member.logs / "launch.log")
        if not self._leaving and wants_another_attempt(member, self.stage.budgets):
            self._waiting.append(member)


def _is_newest(member: Member, child: int) -> bool:
    """Whether the member's last attempt is a child's, or was noted here for it.

    Another launcher may have started the member meanwhile, and the child left for that reason.
    """
    places = [attempt.where for attempt in member.ledger.attempts()[-1:]]
    own = [(socket.gethostname(), pid) for pid in (child, os.getpid())]
    return any((where["host"], where["pid"]) in own for where in places)
