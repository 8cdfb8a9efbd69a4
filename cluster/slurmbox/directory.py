"""The directory a box lives in: where, what it must be like, what is made in it."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .daemons import program
from .errors import SlurmBoxError

# Slurm puts sockets below it, whose whole path the kernel limits to 107 bytes.
_LONGEST = 70
_LOCK = Path("/run/yaoki-slurmbox.lock")


def default_directory() -> Path:
    """Where a box lives unless told otherwise: YAOKI_SLURMBOX, else below /var/lib.

    Not in a home directory: root's is closed to the user that the database
    runs as, and ``sudo`` would change which directory is meant.
    """
    return Path(os.environ.get("YAOKI_SLURMBOX") or "/var/lib/yaoki/slurmbox")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep two commands from bringing boxes up or down, or choosing ports, together."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def claim(directory: Path) -> None:
    """Make the directory itself, after checking that a box can live there.

    Raises:
        SlurmBoxError: the path cannot be used, or holds something that is no box.
    """
    _check_name(directory)
    if _holds_something_else(directory):
        raise SlurmBoxError(
            f"{directory} is not empty and holds no Slurm box: name an empty directory"
        )
    _check_reachable(directory)
    for path in reversed([one for one in directory.parents if not one.exists()]):
        _open_directory(path)
    _open_directory(directory)


def furnish(directory: Path, nodes: tuple[str, ...]) -> None:
    """Make everything in it that the daemons expect to find, where it is not there yet."""
    spools = (f"spool/{node}" for node in nodes)
    for name in ("log", "pid", "run", "munge", "mysql", "spool", *spools):
        _open_directory(directory / name)
    (directory / "state").mkdir(mode=0o700, exist_ok=True)
    _make_key(directory / "munge/key")
    _make_database(directory / "mysql")


def _open_directory(path: Path) -> None:
    # By chmod, because a strict umask would close it.
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def _check_name(directory: Path) -> None:
    if len(str(directory)) > _LONGEST or not re.fullmatch(r"[A-Za-z0-9_./+-]+", str(directory)):
        raise SlurmBoxError(
            f"the directory of a Slurm box must have a path of at most {_LONGEST} letters, digits "
            f"and ._+-/ (its sockets and Slurm's configuration allow no other), not {directory}"
        )


def _holds_something_else(directory: Path) -> bool:
    if not directory.exists() or (directory / "box.json").exists():
        return False
    return any(directory.iterdir())


def _check_reachable(directory: Path) -> None:
    for path in directory.parents:
        if path.exists() and not path.stat().st_mode & 0o001:
            raise SlurmBoxError(
                f"{path} is closed to other users (mode {path.stat().st_mode & 0o777:o}), and the "
                f"database of the box runs as the user mysql below it: choose another directory, "
                f"or `chmod o+x {path}`"
            )


def _make_key(path: Path) -> None:
    if not path.exists():
        _run("mungekey", "--create", f"--keyfile={path}")


def _make_database(home: Path) -> None:
    if (home / "data").is_dir():
        return
    # Renamed when it is whole: what an interrupted attempt left is no database.
    unfinished = home / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    # The server puts its own pid and socket files beside its data.
    for path in (unfinished, home):
        shutil.chown(path, user="mysql")
    _run(
        "mariadb-install-db",
        "--no-defaults",
        "--user=mysql",
        f"--datadir={unfinished}",
        "--skip-test-db",
        "--auth-root-authentication-method=socket",
    )
    unfinished.rename(home / "data")


def _run(*command: str) -> None:
    done = subprocess.run(
        [program(command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SlurmBoxError(
            f"`{' '.join(command)}` ended with exit code {done.returncode}:\n{done.stdout.strip()}"
        )
