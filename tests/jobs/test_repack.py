"""``repack``, and what ``doctor`` says of trajectory files."""

from pathlib import Path

import h5py
import numpy as np
from support.commandline import yaoki


def test_a_slow_file_is_found_and_repacked(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8, 2, 16, 16)).astype(np.float32)
    old, new = tmp_path / "ein alter Name.h5", tmp_path / "new.h5"
    with h5py.File(old, "w") as file:
        file.create_dataset("x", data=x, compression="gzip", chunks=True)
    (finding,) = (f for f in yaoki("doctor", "--json", old).record if f["subject"] == "data")
    assert (finding["verdict"], "yaoki repack" in finding["text"]) == ("note", True)
    record = yaoki("repack", old, new, "--json").record
    assert (record["written"], record["shape"]) == (True, [3, 8, 2, 16, 16])
    (finding,) = (f for f in yaoki("doctor", "--json", new).record if f["subject"] == "data")
    assert finding["verdict"] == "ok"
    with h5py.File(new) as file:
        np.testing.assert_array_equal(file["x"], x)
    assert yaoki("repack", old, new).code == 0
    assert "already" in yaoki("repack", old, new).out


def test_what_is_no_trajectory_file_is_not_repacked(tmp_path: Path) -> None:
    (tmp_path / "old.h5").write_bytes(b"no HDF5")
    done = yaoki("repack", tmp_path / "old.h5", tmp_path / "new.h5")
    assert (done.code, done.out) == (1, "")
    assert "old.h5: is no whole HDF5 file" in done.err
    assert not (tmp_path / "new.h5").exists()
