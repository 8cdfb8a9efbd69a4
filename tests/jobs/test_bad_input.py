"""Bad data, torn checkpoints and a full disk: one clear error each, and nothing is lost."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.commandline import SMOKE, copy_until, flip_bit, forget_end, run_of, tree, yaoki
from support.comparison import differences
from support.disks import small_disk

from cluster.records.member import Member

pytestmark = pytest.mark.timeout(600)


def first_shard(run: Path) -> Path:
    return sorted((run / "data").glob("*.h5"))[0]


def reshape(path: Path) -> None:
    """Rewrite a shard with one component of velocity in place of two."""
    with h5py.File(path, "r+") as file:
        (name,) = (key for key in file if isinstance(file[key], h5py.Dataset))
        values, attributes = file[name][()][:, :, :1], dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=values).attrs.update(attributes)


def spoil(path: Path) -> None:
    """Put one NaN into a shard."""
    with h5py.File(path, "r+") as file:
        (name,) = (key for key in file if isinstance(file[key], h5py.Dataset))
        values = file[name][()]
        values[3, 5, 0, 1, 2] = np.nan
        file[name][...] = values


def truncate(path: Path) -> None:
    """Cut a shard in half, as a copy over a bad line does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [reshape, spoil, truncate])
def test_bad_data_end_in_one_clear_error_and_mended_data_in_a_whole_run(
    smoke_run: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run = copy_until(smoke_run, tmp_path, "simulate")
    shard = first_shard(run)
    damage(shard)
    done = yaoki("run", *SMOKE, "--runs", tmp_path)
    assert done.code == 1
    assert str(shard) in done.err
    assert "2 of 2 members did not finish" in done.err
    status = yaoki("status", run, "--json")
    assert status.code == 1
    details = {m["detail"] for m in status.record["members"] if m["stage"] == "train"}
    assert all(str(shard) in detail for detail in details)
    assert not (run / "weights").exists()
    if damage is spoil:
        shutil.copy(first_shard(smoke_run), shard)
        assert yaoki("retry", run).code == 0
        assert differences(run, smoke_run) == []


def torn_training(smoke_run: Path, runs: Path, torn: int) -> tuple[Path, Member]:
    """A run whose first training was killed, with its newest checkpoints torn."""
    run = copy_until(smoke_run, runs, "train")
    member = Member(run, "train", 0)
    forget_end(member)
    (run / "weights" / "0000.pt").unlink()
    checkpoints = sorted(member.checkpoints.glob("*.pt"), reverse=True)
    assert len(checkpoints) == 2
    for path in checkpoints[:torn]:
        flip_bit(path)
    return run, member


def test_a_torn_checkpoint_falls_back_to_the_one_before(smoke_run: Path, tmp_path: Path) -> None:
    run, member = torn_training(smoke_run, tmp_path, torn=1)
    done = yaoki("run", *SMOKE, "--runs", tmp_path)
    assert done.code == 0, done.err
    assert "falling back" in (member.logs / "0002.log").read_text()
    assert differences(run, smoke_run) == []


def test_without_a_whole_checkpoint_nothing_is_guessed(smoke_run: Path, tmp_path: Path) -> None:
    run, member = torn_training(smoke_run, tmp_path, torn=2)
    done = yaoki("run", *SMOKE, "--runs", tmp_path)
    assert done.code == 1
    assert str(member.checkpoints) in done.err
    assert "Move the directory away" in done.err
    shutil.move(member.checkpoints, tmp_path / "torn")
    assert yaoki("retry", run).code == 0
    assert differences(run, smoke_run) == []


@pytest.mark.parametrize("kilobytes", [900, 3600])
def test_a_full_disk_publishes_nothing_by_halves(
    smoke_run: Path, tmp_path: Path, kilobytes: int
) -> None:
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        done = yaoki("run", *SMOKE, "--runs", disk)
        assert done.code in (1, 74)
        assert "No space left" in done.err
        run = run_of(disk)
        whole = tree(smoke_run)
        for folder in ("data", "weights"):
            made = tree(run / folder) if (run / folder).exists() else {}
            assert made.items() <= {
                (name.removeprefix(f"{folder}/"), content) for name, content in whole.items()
            }
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = yaoki("run", *SMOKE, "--runs", disk)
        assert again.code == 0, again.err
        assert yaoki("verify", run).code == 0
        assert differences(run, smoke_run) == []
