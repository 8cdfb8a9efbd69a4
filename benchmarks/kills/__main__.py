"""Kill the members of an ensemble at random times, and compare it with one left in peace.

    python -m benchmarks.kills                              # 64 members, 50 kills
    python -m benchmarks.kills --members 640 --kills 500 --seed 7
    python -m benchmarks.kills --directory /scratch/me      # on the file system that you ask about

Every attempt takes the way of a real member: ledger, fence, checkpoints, shards, commit. Kills are
SIGKILLs at any time of an attempt, inside the write of a shard, and inside that of a commit; half
of them nobody notes. Clocks of the attempts are up to a day apart. After each kill the ensemble is
verified. Ends with 1 if anything was ever damaged, or if a byte or a digest differs in the end.
"""

import argparse
import json
import resource
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.kills.launcher import Launcher, lay_out
from benchmarks.kills.work import ensemble_path
from pipelines.ensemble import collect, verify

#: What differs between two runs that computed the same: see docs/data-format.md.
_VOLATILE = ("fence", "seal", "slurm", "host")


@dataclass(frozen=True)
class Result:
    """What came of it."""

    members: int
    kills: int
    seed: int
    met: dict[str, int]
    damaged: list[str]
    differences: list[str]
    complete: bool
    cpu_seconds: float

    @property
    def ok(self) -> bool:
        """Whether all kills were dealt and none of them left a trace."""
        dealt = sum(self.met.values()) == self.kills
        return dealt and self.complete and not self.damaged and not self.differences


def content(run: Path) -> dict[str, bytes]:
    """Every file of ensemble and commits with its bytes, or with those that may not differ."""
    files = [f for name in ("ensemble.zarr", "commits") for f in (run / name).rglob("*")]
    found = {str(f.relative_to(run)): f.read_bytes() for f in files if f.is_file()}
    for name in (name for name in found if name.startswith("commits/0")):
        marker = json.loads(found[name])
        marker |= marker.pop("provenance")
        kept = {key: value for key, value in marker.items() if key not in _VOLATILE}
        found[name] = json.dumps(kept, sort_keys=True).encode()
    return found


def differences(run: Path, twin: Path) -> list[str]:
    """Names of files that two runs do not have alike."""
    one, other = content(run), content(twin)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def rehearse(directory: Path, members: int, kills: int, seed: int, at_once: int) -> Result:
    """Run the ensemble twice, once with kills, and hold the results side by side."""
    whole, killed = directory / "whole", directory / "killed"
    span = Launcher(lay_out(whole, members), at_once=at_once).run()
    launcher = Launcher(lay_out(killed, members), seed, kills, span, at_once)
    launcher.run()
    for run in (whole, killed):
        collect(ensemble_path(run))
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Result(
        members,
        kills,
        seed,
        dict(sorted(launcher.met.items())),
        launcher.damaged,
        differences(killed, whole),
        all(verify(ensemble_path(run)).complete for run in (whole, killed)),
        round(sum(used.ru_utime + used.ru_stime for used in spent), 1),
    )


def tell(result: Result) -> None:
    """Print it for people."""
    print(f"{result.members} members, {sum(result.met.values())} kills, seed {result.seed}")
    for where, count in result.met.items():
        print(f"  {count:5d} {where}")
    for line in [*result.damaged, *(f"{name}: other bytes" for name in result.differences)]:
        print(f"  {line}")
    print("the same in every byte" if result.ok else "NOT the same", end="")
    print(f"; {result.cpu_seconds} s of CPU")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=4, help="attempts at a time")
    parser.add_argument("--directory", type=Path, help="where to make the runs (default: /tmp)")
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="yaoki-kills-", dir=chosen.directory) as place:
        result = rehearse(Path(place), chosen.members, chosen.kills, chosen.seed, chosen.at_once)
    if chosen.json:
        print(json.dumps(asdict(result) | {"ok": result.ok}, indent=1))
    else:
        tell(result)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
