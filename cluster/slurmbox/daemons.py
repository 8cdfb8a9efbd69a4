"""One daemon of a box: how it is started, recognized, waited for and stopped.

Every daemon runs in a session of its own, outlives the process that started it, inherits
nothing but the file it prints to, and has its number in a pid file of the box. A pid file
is believed only if the process it names is this box's daemon, so that a number reused
after a reboot is never taken for it, let alone killed.
"""

import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import processes
from .errors import SlurmBoxError
from .packages import search_path

_TAIL_LINES = 15
# setsid forks, so that nobody has to reap the daemon; the shell notes its number and becomes it.
_DETACHED = ("setsid", "--fork", "sh", "-c", 'echo $$ > "$0" && exec "$@"')


@dataclass(frozen=True)
class Daemon:
    """One daemon of the box in ``directory``.

    Args:
        name: What the box calls it: ``slurmd-n0``.
        command: Program and arguments that keep it in the foreground.
        directory: The box's directory.
        port: TCP port it listens on once it is ready; None for a socket file.
        socket: Socket it listens on once it is ready, where there is no port.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    port: int | None = None
    socket: Path | None = None

    @property
    def pid_file(self) -> Path:
        return self.directory / "pid" / self.name

    @property
    def log(self) -> Path:
        """The file a person should read when it fails."""
        written = self.directory / "log" / f"{self.name}.log"
        printed = self.directory / "log" / f"{self.name}.out"
        return written if written.exists() and written.stat().st_size else printed

    def pid(self) -> int | None:
        """Its process number, or None when it does not run."""
        pid = processes.pid_in(self.pid_file)
        return pid if pid is not None and self._is_this(pid) else None

    def start(self) -> None:
        """Start it unless it runs already.

        Raises:
            SlurmBoxError: it cannot be started at all.
        """
        if self.pid() is not None:
            return
        self.pid_file.unlink(missing_ok=True)
        with (self.directory / "log" / f"{self.name}.out").open("ab") as output:
            launched = subprocess.run(
                [*_DETACHED, str(self.pid_file), *self.command],
                env=daemon_environment(self.directory),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                # The caller's may be stricter, and users must be able to read what Slurm writes.
                umask=0o022,
                check=False,
            )
        if launched.returncode != 0 or not self._left_the_shell():
            raise self.failure("could not be started")

    def wait_ready(self, deadline: float) -> None:
        """Wait until it listens.

        Args:
            deadline: When to give up, on the monotonic clock.

        Raises:
            SlurmBoxError: it died, or the deadline passed; with the end of its log.
        """
        while not self._listens():
            if self.pid() is None:
                raise self.failure("died while it was starting")
            if time.monotonic() > deadline:
                raise self.failure("was not ready in time")
            time.sleep(0.05)
        # Another program may listen there: ours must be alive too.
        if self.pid() is None:
            raise self.failure("died while it was starting")

    def kill(self) -> None:
        """SIGKILL it, as a power failure would; it cannot say goodbye."""
        if (pid := self.pid()) is not None:
            processes.kill([pid])
        self.pid_file.unlink(missing_ok=True)

    def failure(self, what: str) -> SlurmBoxError:
        """An error that says what happened to this daemon, with the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (nothing)"
        return SlurmBoxError(
            f"{self.name}, a daemon of the Slurm box in {self.directory}, {what}. "
            f"The end of {self.log}:\n{tail}"
        )

    def _left_the_shell(self) -> bool:
        """Wait until the shell became the daemon, or died; False when it does neither."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            pid = processes.pid_in(self.pid_file)
            if pid is not None and (self._is_this(pid) or processes.gone(pid)):
                return True
            time.sleep(0.005)
        return False

    def _is_this(self, pid: int) -> bool:
        arguments = processes.arguments(pid)
        if arguments != list(self.command):
            return False
        # A user who is not root cannot look at the environment; the arguments must do then.
        return (
            processes.environment_has(pid, f"SLURM_CONF={self.directory}/slurm.conf") is not False
        )

    def _listens(self) -> bool:
        # Looked up, not tried: Slurm's daemons log an error for a connection that says nothing.
        if self.port is not None:
            return processes.listens_on_port(self.port)
        return self.socket is not None and self.socket.is_socket()


def daemon_environment(directory: Path) -> dict[str, str]:
    """The whole environment of a daemon: nothing of the caller's leaks into it or its jobs."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", "SLURM_CONF": f"{directory}/slurm.conf"}


def program(name: str) -> str:
    """Full path of an installed program; its bare name where it is not installed."""
    return shutil.which(name, path=search_path()) or name


def stop(daemons: Iterable[Daemon], patience: float = 15.0) -> None:
    """SIGTERM them all at once, wait, SIGKILL what is left; remove their pid files."""
    chosen = list(daemons)
    processes.terminate((pid for one in chosen if (pid := one.pid()) is not None), patience)
    for daemon in chosen:
        daemon.pid_file.unlink(missing_ok=True)
