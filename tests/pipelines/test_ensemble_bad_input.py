"""What is not ours, not of this version, or cannot be written: one clear error, nothing lost."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from support.ensembles import (
    ATTRIBUTES,
    MEMBERS,
    SPECS,
    TIME,
    plan,
    tree,
    write,
    written,
)

from jobs.cli import main
from pipelines.ensemble import (
    EnsembleError,
    collect,
    create_ensemble,
    gather,
    verify,
)
from pipelines.ensemble.documents import seal, unseal

USES: dict[str, Callable[[Path], object]] = {
    "plan": lambda path: create_ensemble(path, MEMBERS, SPECS, ATTRIBUTES, [TIME]),
    "write": lambda path: write(path, 0),
    "verify": verify,
    "collect": collect,
    "collect partially": lambda path: collect(path, partial=True),
    "gather": lambda path: gather(path, {}),
}


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["u"] = np.zeros(4)


def _directory(path: Path, name: str, content: str) -> None:
    path.mkdir()
    (path / name).write_text(content)


def _described(path: Path, described: object) -> None:
    zarr.create_group(path, zarr_format=3, attributes={"yaoki": described})


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "Zarr v2 group": (lambda p: zarr.create_group(p, zarr_format=2), "found a Zarr v2 store"),
    "Zarr v2 array": (
        lambda p: zarr.create_array(p, shape=4, dtype="f4", zarr_format=2),
        "found a Zarr v2 store",
    ),
    "Zarr v3 array": (lambda p: zarr.create_array(p, shape=4, dtype="f4"), "not a yaoki ensemble"),
    "Zarr v3 group": (lambda p: zarr.create_group(p, zarr_format=3), "not a yaoki ensemble"),
    "HDF5 file": (_hdf5, "found an HDF5 file"),
    "text file": (lambda p: p.write_text("notes"), "found a file"),
    "other directory": (
        lambda p: _directory(p, "notes", ""),
        "found a directory without zarr.json",
    ),
    "not JSON": (lambda p: _directory(p, "zarr.json", "{"), "not the metadata"),
    "another's name": (lambda p: _described(p, "mine"), "expected the description|another job"),
    "no arrays": (lambda p: _described(p, {"format": 1}), "expected the description|another job"),
    "later format": (
        lambda p: _described(p, {"format": 2, "arrays": {}}),
        "expected format 1, found 2|another job",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_ours_is_told_and_left_alone(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ensemble.zarr"
    make, message = FOREIGN[what]
    make(path)
    before = tree(tmp_path)
    for use in USES.values():
        with pytest.raises(EnsembleError, match=message) as told:
            use(path)
        assert str(path) in str(told.value)
        assert "\n" not in str(told.value)
    assert tree(tmp_path) == before
    (tmp_path / "members").mkdir()
    assert main(["verify", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"yaoki: {re.escape(str(path))}.*(?:{message}).*\n", said.err)


def test_an_hdf5_file_in_the_place_of_a_planned_store_is_told_once(tmp_path: Path) -> None:
    path = written(tmp_path)
    shutil.rmtree(path)
    _hdf5(path)
    for use in USES.values():
        with pytest.raises(EnsembleError, match="found an HDF5 file"):
            use(path)


def test_an_empty_directory_is_planned_in(tmp_path: Path) -> None:
    (tmp_path / "ensemble.zarr").mkdir()
    assert verify(plan(tmp_path)).of("missing") == list(range(MEMBERS))


def reseal(file: Path, **changes: Any) -> None:
    """Change entries of a sealed document, as another version would have written it."""
    file.write_bytes(seal(unseal(file) | changes))


def test_a_marker_of_a_later_version_is_neither_replaced_nor_set_aside(tmp_path: Path) -> None:
    path = written(tmp_path)
    reseal(tmp_path / "commits/0001.json", format=2)
    before = tree(tmp_path)
    report = verify(path)
    assert report.of("damaged") == [1]
    told = r"commits/0001.json: expected format 1, found 2: another version of yaoki wrote it"
    assert re.search(told, "\n".join(report.lines()))
    later: list[Callable[[], object]] = [
        lambda: write(path, 1, fence=9),
        lambda: collect(path),
        lambda: collect(path, partial=True),
    ]
    for use in later:
        with pytest.raises(EnsembleError, match=told):
            use()
    assert tree(tmp_path) == before


def test_a_layout_of_a_later_version_is_told(tmp_path: Path) -> None:
    path = written(tmp_path)
    reseal(tmp_path / "commits/layout.json", format=2)
    before = tree(tmp_path)
    for name in set(USES) - {"plan"}:
        with pytest.raises(EnsembleError, match="expected format 1, found 2"):
            USES[name](path)
    assert tree(tmp_path) == before


def test_a_manifest_of_a_later_version_is_told_and_made_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    collect(path)
    before = tree(tmp_path)
    reseal(tmp_path / "commits/manifest.json", format=2)
    report = verify(path)
    assert (report.ok, report.seal) == (False, "damaged")
    assert "commits/manifest.json: expected format 1, found 2" in "\n".join(report.lines())
    collect(path)
    assert tree(tmp_path) == before


def test_a_commit_of_another_configuration_is_told(tmp_path: Path) -> None:
    path = written(tmp_path)
    reseal(tmp_path / "commits/0002.json", config_digest="beef")
    told = "commits/0002.json: configuration 'beef', the ensemble is of 'c0ffee'"
    assert f"member 2 damaged: {told}" in "\n".join(verify(path).lines())
    with pytest.raises(EnsembleError, match=told):
        collect(path)
    assert collect(path, partial=True)["missing"] == [2]
    (kept,) = (tmp_path / "commits/set-aside/0002").glob("*.json")
    assert unseal(kept)["config_digest"] == "beef"
