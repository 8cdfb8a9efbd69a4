"""Debian packages that the box runs on: which are missing, and installing them."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .errors import SlurmUnavailableError

# One command that only this package brings, or a file where it brings none.
PROVIDES: Mapping[str, str] = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-client": "sbatch",
    "slurm-wlm-basic-plugins": "/usr/lib/*/slurm-wlm/select_cons_tres.so",
    "munge": "munged",
    "slurmdbd": "slurmdbd",
    "slurm-wlm-mysql-plugin": "/usr/lib/*/slurm-wlm/accounting_storage_mysql.so",
    "mariadb-server": "mariadbd",
}

_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def search_path() -> str:
    """PATH with the system directories, which a plain user's PATH often lacks."""
    return os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM_DIRECTORIES])


def missing_packages() -> list[str]:
    """Names of the Debian packages that the box needs and this machine lacks."""
    return [package for package, proof in PROVIDES.items() if not _present(proof)]


def install_command(packages: list[str]) -> list[str]:
    """The apt-get command line that installs ``packages``."""
    return ["apt-get", "install", "--yes", "--no-install-recommends", *packages]


def require_available() -> None:
    """Check that a box can run here.

    Raises:
        SlurmUnavailableError: packages are missing, or this process is not root.
    """
    if packages := missing_packages():
        raise SlurmUnavailableError(_missing_message(packages))
    if os.geteuid() != 0:
        raise SlurmUnavailableError(
            "the Slurm box must be started and stopped by root: its daemons switch to the user "
            f"of each job, and this is user id {os.geteuid()}. Run it with sudo; any user may "
            "then submit to it."
        )


def install_packages() -> list[str]:
    """Install what is missing with apt-get, its progress going to this process's output.

    Returns:
        The packages that were installed; empty when nothing was missing.

    Raises:
        SlurmUnavailableError: this machine does not let us, or apt-get failed.
    """
    packages = missing_packages()
    if not packages:
        return []
    if os.geteuid() != 0 or shutil.which("apt-get", path=search_path()) is None:
        raise SlurmUnavailableError(_missing_message(packages))
    _apt_get(["apt-get", "update"])
    _apt_get(install_command(packages))
    if still := missing_packages():
        raise SlurmUnavailableError(
            f"apt-get succeeded, yet {', '.join(still)} cannot be found on this machine. "
            "The box is known to work on Debian 12 and its descendants."
        )
    return packages


def _apt_get(command: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PATH": search_path()}
    print("+", " ".join(command), flush=True)
    if code := subprocess.run(command, env=environment, check=False).returncode:
        raise SlurmUnavailableError(
            f"`{' '.join(command)}` ended with exit code {code}; its output is above. "
            "Check that the machine reaches its package mirror, then run it again."
        )


def _present(proof: str) -> bool:
    if proof.startswith("/"):
        return any(Path("/").glob(proof.lstrip("/")))
    return shutil.which(proof, path=search_path()) is not None


def _missing_message(packages: list[str]) -> str:
    if shutil.which("apt-get", path=search_path()) is None:
        why = "they cannot be installed here: there is no apt-get (is this Debian or Ubuntu?)"
    elif os.geteuid() != 0:
        why = f"only root may install them, and this is user id {os.geteuid()}"
    else:
        why = "`yaoki slurmbox install` installs them"
    return (
        f"a real Slurm needs {len(packages)} more Debian package(s): {', '.join(packages)}; {why}."
        f"\nThe command is: {' '.join(install_command(packages))}"
    )
