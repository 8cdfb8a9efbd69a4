"""A real Slurm on one machine: ``yaoki slurmbox up``, or ``with SlurmBox(...) as box``.

Needs root and a few Debian packages (:func:`missing_packages`); imports the standard
library only.
"""

from .box import SlurmBox
from .cgroups import MemoryControl
from .command import add_parser
from .configuration import BoxSettings
from .errors import SlurmBoxError, SlurmUnavailableError
from .packages import install_packages, missing_packages, require_available
from .status import BoxStatus, DaemonStatus, NodeStatus

__all__ = [
    "BoxSettings",
    "BoxStatus",
    "DaemonStatus",
    "MemoryControl",
    "NodeStatus",
    "SlurmBox",
    "SlurmBoxError",
    "SlurmUnavailableError",
    "add_parser",
    "install_packages",
    "missing_packages",
    "require_available",
]
