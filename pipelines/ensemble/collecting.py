"""Sealing an ensemble: refuse holes, or admit them in a mask, and write down what is whole."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cluster.records.files import write_atomic
from pipelines.ensemble.documents import (
    EnsembleError,
    FormatError,
    Stored,
    reported,
    seal,
    unseal,
)
from pipelines.ensemble.layout import FORMAT, Layout, read_layout
from pipelines.ensemble.members import load_commit
from pipelines.ensemble.verifying import (
    MemberReport,
    Progress,
    check_members,
    check_planned,
)


def collect(path: Path, partial: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Verify every member and seal the ensemble; doing it again changes nothing.

    Args:
        path: The ensemble.
        partial: Seal although members are missing or damaged: they are NaN in the arrays and
            False in the array ``valid``. What a damaged member left is set aside, not lost, in
            ``commits/set-aside/``, and the member may be written anew.
        progress: Called with the number of members done and of all.

    Returns:
        The manifest: members, ``valid`` and ``missing`` indices, and the digest of every file.

    Raises:
        EnsembleError: Members are missing or damaged and ``partial`` was not asked for; there is
            none at all; metadata is damaged; another version wrote a marker; or the seal cannot
            be written.
    """
    layout = read_layout(path)
    damaged = check_planned(layout)
    if damaged:
        raise EnsembleError(f"{path}: {damaged[0].file}: {damaged[0].reason}; nothing was sealed")
    members = check_members(layout, set(), progress)
    absent = [report for report in members if report.state != "committed"]
    if absent and not partial:
        raise EnsembleError(_refusal(layout, absent))
    if len(absent) == layout.members:
        raise EnsembleError(f"{path}: no member is whole, so there is nothing to seal")
    for report in absent:
        _check_version(layout, report.member)
    with reported(f"sealing {path}"):
        for report in absent:
            _set_aside(layout, report.member)
        if not absent:
            _sweep(layout)
        return _seal(layout, members)


def left_out(path: Path) -> list[int]:
    """The members that a sealed ensemble declares missing; none where there is no seal.

    Raises:
        EnsembleError: The seal is damaged.
    """
    manifest = Layout(path, 0, "", {}).manifest
    missing: list[int] = unseal(manifest)["missing"] if manifest.exists() else []
    return missing


def _refusal(layout: Layout, absent: list[MemberReport]) -> str:
    shown = [
        f"  member {report.member} {report.state}: {problem.file}: {problem.reason}"
        for report in absent[:10]
        for problem in report.problems
    ]
    more = [f"  ... and {len(absent) - 10} members more"] if len(absent) > 10 else []
    head = f"{layout.path}: {len(absent)} of {layout.members} members are not whole:"
    advice = "retry them, or collect partially: they will be NaN and marked in `valid`"
    return "\n".join([head, *shown, *more, advice])


def _check_version(layout: Layout, member: int) -> None:
    """Refuse to set aside what another version may well read."""
    try:
        load_commit(layout.commit(member))
    except FormatError:
        raise
    except EnsembleError:
        return


def _set_aside(layout: Layout, member: int) -> None:
    """Take what is not proved out of the arrays, so that it reads as NaN."""
    aside = layout.commits / "set-aside" / f"{member:04d}"
    found = [layout.path / name for name in layout.shards(member)]
    for file in (layout.commit(member), *found):
        if file.exists():
            aside.mkdir(parents=True, exist_ok=True)
            file.replace(aside / f"{file.parent.name}.{file.name}")


def _sweep(layout: Layout) -> None:
    """Remove temporary files of killed writers; all members are whole, so none is in use."""
    for leftover in (*layout.commits.glob(".*.tmp"), *layout.path.glob("*/.*.tmp")):
        leftover.unlink(missing_ok=True)
    for leftover in layout.path.parent.glob(f".{layout.path.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _seal(layout: Layout, members: tuple[MemberReport, ...]) -> dict[str, Any]:
    whole = {r.member: r.commit for r in members if r.state == "committed" and r.commit}
    mask = np.isin(np.arange(layout.members), list(whole)).tobytes()
    write_atomic(layout.path / "valid" / "c.0", mask)
    files = unseal(layout.record)["files"] | {"valid/c.0": asdict(Stored.of(mask))}
    manifest = {
        "format": FORMAT,
        "config_digest": layout.config_digest,
        "members": layout.members,
        "valid": sorted(whole),
        "missing": sorted(set(range(layout.members)) - whole.keys()),
        "files": files,
        "shards": {n: asdict(s) for commit in whole.values() for n, s in commit.shards.items()},
    }
    write_atomic(layout.manifest, seal(manifest))
    return manifest
