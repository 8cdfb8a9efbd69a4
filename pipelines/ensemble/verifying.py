"""Proving an ensemble: every byte that was promised against every byte that is there.

Files are streamed through their digests, so memory does not grow with the ensemble.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.ensemble.documents import EnsembleError, Stored, unseal
from pipelines.ensemble.layout import FORMAT, Layout, read_layout
from pipelines.ensemble.members import Commit, load_commit

MemberState = Literal["committed", "missing", "damaged"]
SealState = Literal["absent", "valid", "stale", "damaged"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be: ``file`` relative to the run directory."""

    file: str
    reason: str


@dataclass(frozen=True)
class MemberReport:
    """What was found of one member."""

    member: int
    state: MemberState
    problems: tuple[Problem, ...] = ()
    commit: Commit | None = None


@dataclass(frozen=True)
class VerifyReport:
    """What was found of an ensemble.

    Attributes:
        members: One report a member, in order.
        problems: Damage to files that belong to no member: metadata, coordinates, manifest.
        seal: The manifest: none yet, valid, older than a commit (collect again), or damaged.
        declared: Members that the manifest declares missing.
    """

    path: Path
    members: tuple[MemberReport, ...]
    problems: tuple[Problem, ...]
    seal: SealState
    declared: frozenset[int] = frozenset()

    def of(self, state: MemberState) -> list[int]:
        """Return the members in a state."""
        return [report.member for report in self.members if report.state == state]

    @property
    def complete(self) -> bool:
        """Whether every member is committed and intact, and so are the planner's files."""
        return not self.problems and len(self.of("committed")) == len(self.members)

    @property
    def ok(self) -> bool:
        """Whether all is as declared: no damage, and no hole that the manifest does not admit."""
        holes = set(self.of("missing")) - self.declared
        return not (holes or self.of("damaged") or self.problems) and self.seal != "stale"

    def lines(self, limit: int = 20) -> list[str]:
        """Say it in lines of text, the first holding the sum and the others one problem each."""
        counts = [f"{len(self.of(s))} {s}" for s in ("committed", "missing", "damaged")]
        found = [f"{problem.file}: {problem.reason}" for problem in self.problems]
        found += [
            f"member {report.member} {report.state}: {problem.file}: {problem.reason}"
            for report in self.members
            for problem in report.problems
        ]
        if self.seal == "stale":
            found.append("commits/manifest.json: older than a commit: collect again")
        more = [f"... and {len(found) - limit} more"] if len(found) > limit else []
        head = f"{self.path}: of {len(self.members)} members {', '.join(counts)}; seal {self.seal}"
        return [head, *found[:limit], *more]


def verify(path: Path, progress: Progress | None = None) -> VerifyReport:
    """Check every file of an ensemble against its digests, and the manifest where there is one.

    Args:
        path: The ensemble.
        progress: Called with the number of members done and of all.

    Raises:
        EnsembleError: There is no ensemble, or nothing on its layout can be read.
    """
    layout = read_layout(path)
    problems, manifest, seal = check_shared(layout)
    valid = set(manifest.get("valid", []))
    members = check_members(layout, valid, progress)
    if seal == "valid" and _is_stale(manifest, members):
        seal = "stale"
    return VerifyReport(path, members, problems, seal, frozenset(manifest.get("missing", [])))


def check_members(
    layout: Layout, expected: set[int], progress: Progress | None
) -> tuple[MemberReport, ...]:
    """Check every member; ``expected`` are those that a manifest declares whole."""
    reports = []
    for member in range(layout.members):
        reports.append(_check_member(layout, member, member in expected))
        if progress is not None:
            progress(member + 1, layout.members)
    return tuple(reports)


def check_planned(layout: Layout) -> list[Problem]:
    """Check the planner's files: metadata and coordinates."""
    try:
        files = unseal(layout.record)["files"]
    except FileNotFoundError:
        return [Problem("commits/layout.json", "deleted: plan the run again to restore it")]
    except EnsembleError:
        return [Problem("commits/layout.json", "changed: plan the run again to restore it")]
    return _check_files(layout, files)


def check_shared(layout: Layout) -> tuple[tuple[Problem, ...], dict[str, Any], SealState]:
    """Check the planner's files and the manifest; return the problems and what is sealed."""
    problems = check_planned(layout)
    try:
        manifest = unseal(layout.manifest)
    except FileNotFoundError:
        if (layout.path / "valid" / "c.0").exists():
            problems.append(Problem("commits/manifest.json", "deleted, or never written: collect"))
        return tuple(problems), {}, "absent"
    except EnsembleError:
        problems.append(Problem("commits/manifest.json", "changed: collect again"))
        return tuple(problems), {}, "damaged"
    if manifest.get("format") != FORMAT:
        reason = f"expected format {FORMAT}, found {manifest.get('format')}: collect again"
        return (*problems, Problem("commits/manifest.json", reason)), {}, "damaged"
    problems += _check_files(layout, manifest["files"])
    return tuple(dict.fromkeys(problems)), manifest, "valid"


def _check_files(layout: Layout, files: dict[str, dict[str, Any]]) -> list[Problem]:
    found = [
        (name, Stored.from_json(stored).damage(layout.path / name))
        for name, stored in files.items()
    ]
    return [Problem(f"{layout.path.name}/{name}", reason) for name, reason in found if reason]


def _check_member(layout: Layout, member: int, expected: bool) -> MemberReport:
    marker = f"commits/{layout.commit(member).name}"
    try:
        commit = load_commit(layout.commit(member))
    except EnsembleError as error:
        # The marker is unreadable, so what it said of the shards is unknown: all are in doubt.
        doubt = tuple(_shard(layout, name, "unproved") for name in layout.shards(member))
        return MemberReport(member, "damaged", (Problem(marker, str(error)), *doubt))
    if commit is None and not expected:
        return MemberReport(member, "missing", (Problem(marker, "not committed"),))
    if commit is None:
        return MemberReport(member, "damaged", (Problem(marker, "deleted after sealing"),))
    problems = [Problem(marker, reason) for reason in misfits(layout, member, commit)]
    for name, stored in commit.shards.items():
        reason = stored.damage(layout.path / name)
        problems += [_shard(layout, name, reason)] if reason else []
    return MemberReport(member, "damaged" if problems else "committed", tuple(problems), commit)


def misfits(layout: Layout, member: int, commit: Commit) -> list[str]:
    """Say in what a marker does not fit the ensemble and member that it is to prove."""
    reasons = []
    if commit.member != member:
        reasons.append(f"it is the marker of member {commit.member}")
    if commit.config_digest != layout.config_digest:
        reasons.append(
            f"configuration {commit.config_digest!r}, the ensemble is of {layout.config_digest!r}"
        )
    if set(commit.shards) != set(layout.shards(member)):
        reasons.append(f"names {sorted(commit.shards)}, expected {sorted(layout.shards(member))}")
    return reasons


def _shard(layout: Layout, name: str, reason: str) -> Problem:
    return Problem(f"{layout.path.name}/{name}", reason)


def _is_stale(manifest: dict[str, Any], members: tuple[MemberReport, ...]) -> bool:
    sealed = {name: Stored.from_json(stored) for name, stored in manifest["shards"].items()}
    return any(
        sealed.get(name) != stored
        for report in members
        if report.state == "committed" and report.commit is not None
        for name, stored in report.commit.shards.items()
    )
