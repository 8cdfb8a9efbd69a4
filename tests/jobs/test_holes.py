"""The commands name every file of an ensemble that is lost or changed, and seal nothing."""

import re
import shutil
from pathlib import Path

import pytest
from support.commandline import tree
from support.ensembles import damage

from jobs.cli import main


@pytest.fixture
def copied(smoke_run: Path, tmp_path: Path) -> Path:
    """The ensemble, commits and plan of the finished run."""
    run = tmp_path / smoke_run.name
    for part in ("ensemble.zarr", "commits", "members"):
        shutil.copytree(smoke_run / part, run / part)
    shutil.copy(smoke_run / "plan.yaml", run)
    return run


def proved(run: Path) -> list[Path]:
    """Every file of the ensemble and its commits, but for the lock, which is empty."""
    found = [file for part in ("ensemble.zarr", "commits") for file in (run / part).rglob("*")]
    return sorted(file for file in found if file.is_file() and file.name != ".lock")


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
def test_commands_name_every_damaged_file(
    copied: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(copied)]) == 0
    files = proved(copied)
    assert len(files) >= 10
    for file in files:
        name = file.relative_to(copied).as_posix()
        kept = file.read_bytes()
        damage(file, how)
        capsys.readouterr()
        assert main(["verify", str(copied)]) == 1
        said = capsys.readouterr().out
        assert name in said
        member = re.search(r"velocity/c\.(\d)|commits/000(\d)", name)
        index = member and (member[1] or member[2])
        assert re.findall(r"^member (\d)", said, re.MULTILINE)[:1] == ([index] if index else [])
        if "valid/c.0" not in name and "manifest" not in name:  # collect makes those
            before = tree(copied)
            assert main(["collect", str(copied)]) == 1
            assert name in capsys.readouterr().err
            assert tree(copied) == before
        file.write_bytes(kept)
    assert main(["verify", str(copied)]) == 0
