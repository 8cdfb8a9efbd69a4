"""The Zarr ensemble: planned once, written by members, sealed by ``collect``, proved by ``verify``.

The stored layout is described in ``docs/data-format.md``. Importing this package does not import
zarr: planning alone needs it; writing, verifying and collecting work on files and digests.
"""

from pipelines.ensemble.collecting import collect, left_out
from pipelines.ensemble.documents import EnsembleError, Stored
from pipelines.ensemble.gathering import gather
from pipelines.ensemble.layout import ArraySpec, Coordinate, Layout, read_layout
from pipelines.ensemble.members import Commit, read_commit, write_member
from pipelines.ensemble.planning import create_ensemble
from pipelines.ensemble.provenance import gather_provenance
from pipelines.ensemble.verifying import MemberReport, Problem, VerifyReport, verify

__all__ = [
    "ArraySpec",
    "Commit",
    "Coordinate",
    "EnsembleError",
    "Layout",
    "MemberReport",
    "Problem",
    "Stored",
    "VerifyReport",
    "collect",
    "create_ensemble",
    "gather",
    "gather_provenance",
    "left_out",
    "read_commit",
    "read_layout",
    "verify",
    "write_member",
]
