"""No file of a sealed ensemble can be lost or changed in silence, whichever it is."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray
from support.disks import in_memory
from support.ensembles import MEMBERS, SPECS, damage, tree, values, write, written

from pipelines.ensemble import EnsembleError, collect, verify

FILES = sorted(
    [f"ensemble.zarr/{spec.shard(member)}" for spec in SPECS for member in range(MEMBERS)]
    + [f"commits/{member:04d}.json" for member in range(MEMBERS)]
    + [f"ensemble.zarr/{spec.name}/zarr.json" for spec in SPECS]
    + [
        f"ensemble.zarr/{name}/{file}"
        for name in ("member", "time")
        for file in ("zarr.json", "c.0")
    ]
    + ["ensemble.zarr/zarr.json", "ensemble.zarr/valid/zarr.json", "ensemble.zarr/valid/c.0"]
    + ["commits/layout.json", "commits/manifest.json"]
)
COLLECTED = {"ensemble.zarr/valid/c.0", "commits/manifest.json"}


def member_of(name: str) -> int | None:
    """The member whose shard or marker a file is."""
    found = re.fullmatch(r"ensemble.zarr/(?:u|loss)/c\.(\d+).*|commits/(\d{4})\.json", name)
    return None if found is None else int(found[1] or found[2])


def shards_of(member: int) -> list[str]:
    return [f"ensemble.zarr/{spec.shard(member)}" for spec in SPECS]


@pytest.fixture(scope="module")
def sealed() -> Iterator[Path]:
    """A run whose ensemble is sealed."""
    with in_memory() as place:
        collect(written(place / "run"))
        yield place / "run"


@pytest.fixture
def run(sealed: Path) -> Iterator[Path]:
    """A copy of it, to be damaged."""
    copy = shutil.copytree(sealed, sealed.with_name("copy"))
    yield copy
    shutil.rmtree(copy)


def test_these_are_all_files(run: Path) -> None:
    assert set(FILES) == set(tree(run)) - {"commits/.lock"}


def check_verified(path: Path, name: str, how: str) -> None:
    """What ``verify`` says of one damaged file: that file, its member, and nothing else."""
    report = verify(path)
    assert not report.ok
    text = "\n".join(report.lines())
    assert name in text
    member = member_of(name)
    damaged = report.of("damaged")
    assert damaged == ([] if member is None else [member])
    if member is None:
        assert {problem.file for problem in report.problems} >= {name}
        return
    (found,) = [m for m in report.members if m.state == "damaged"]
    assert f"member {member} damaged: {name}" in text
    # A marker that is there and proves nothing leaves its shards in doubt, and they are named.
    doubtful = shards_of(member) if name.startswith("commits") and how != "delete" else []
    assert [problem.file for problem in found.problems] == [name, *sorted(doubtful)]


def check_partial(path: Path, member: int) -> None:
    """A partial collection names the member, and it is NaN and masked."""
    assert collect(path, partial=True)["missing"] == [member]
    with xarray.open_zarr(path) as found:
        assert found.valid.values.tolist() == [m != member for m in range(MEMBERS)]
        for name in ("u", "loss"):
            assert np.isnan(found[name][member]).all()
            for other in set(range(MEMBERS)) - {member}:
                np.testing.assert_array_equal(found[name][other], values(other)[name])
    assert verify(path).ok


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("name", FILES)
def test_no_damage_to_any_file_is_silent(run: Path, name: str, how: str) -> None:
    path, before = run / "ensemble.zarr", tree(run)
    damage(run / name, how)
    damaged = tree(run)
    check_verified(path, name, how)
    member = member_of(name)
    if name in COLLECTED:  # all that they say is known from the rest, so they are made again
        collect(path)
        assert tree(run) == before
        return
    file = f"member {member} .*{re.escape(name)}" if member is not None else re.escape(name)
    with pytest.raises(EnsembleError, match=file):
        collect(path)
    assert tree(run) == damaged
    if member is None:
        with pytest.raises(EnsembleError, match=rf"{file}.*nothing was sealed"):
            collect(path, partial=True)
        assert tree(run) == damaged
        return
    check_partial(path, member)
    kept = {file.read_bytes() for file in (run / "commits/set-aside").rglob("*.*")}
    assert kept == {content for file, content in damaged.items() if member_of(file) == member}
    write(path, member)
    collect(path)
    assert {name: content for name, content in tree(run).items() if "aside" not in name} == before
