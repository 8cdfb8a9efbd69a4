"""What a member tells about how it was made."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.plan import git_state

_SLURM = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "JOB_PARTITION", "NODELIST")
_PACKAGES = ("yaoki", "numpy", "zarr", "torch", "h5py")


def gather_provenance(config_digest: str, seed: int, source: Path | None = None) -> dict[str, Any]:
    """Gather the provenance that goes into a commit.

    Args:
        config_digest: Digest of the resolved configuration.
        seed: The member's seed.
        source: A directory of the git work tree that the code comes from; default: this code's.

    Returns:
        ``config_digest``, ``seed``, ``git`` (revision and dirty flag; None outside a work tree),
        ``versions``, and ``slurm`` with ``host``, which alone differ between equal computations.
    """
    names = {name.lower(): os.environ.get(f"SLURM_{name}") for name in _SLURM}
    return {
        "config_digest": config_digest,
        "seed": seed,
        "git": git_state(source),
        "versions": {"python": platform.python_version()} | _versions(),
        "slurm": {name: value for name, value in names.items() if value is not None},
        "host": platform.node(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
