"""Trajectories: written whole or not at all, read alike by any number of processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from pipelines.trajectories import (
    SlowLayoutWarning,
    TrajectoryDataset,
    TrajectoryError,
    TrajectoryFile,
    rewrite,
    split,
    write_trajectories,
)

HOW = {"reynolds": 1000.0, "seeds": [1, 2], "digest": "abc", "drag": True, "big": 2**70, "no": None}


def fields(n: int = 6, steps: int = 9, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, steps, 2, 4, 4)).astype(np.float32)


@pytest.fixture
def shards(tmp_path: Path) -> tuple[list[Path], NDArray[np.float32]]:
    x = fields(13)
    paths = [tmp_path / f"{part}.h5" for part in "abc"]
    for path, part in zip(paths, np.split(x, [5, 6]), strict=True):
        write_trajectories(path, part, HOW)
    return paths, x


# --- Writing --------------------------------------------------------------------------------------


def test_a_file_says_what_it_holds_and_how_it_was_made(tmp_path: Path) -> None:
    x = fields()
    assert write_trajectories(tmp_path / "new" / "x.h5", x, HOW)
    with h5py.File(tmp_path / "new" / "x.h5") as file:
        assert file["x"].chunks is None
        assert file["x"].dtype == np.float32
        np.testing.assert_array_equal(file["x"][:], x)
        assert file.attrs["reynolds"] == 1000.0
        assert file.attrs["seeds"] == "[1, 2]"
        assert file.attrs["big"] == str(2**70)
        assert bool(file.attrs["finite"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.h5"]


def test_the_same_trajectories_make_the_same_bytes(tmp_path: Path) -> None:
    x = fields()
    write_trajectories(tmp_path / "a.h5", x, HOW)
    write_trajectories(tmp_path / "b.h5", iter(x), HOW, count=len(x))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:  # nor does the time of day come in
        assert h5py.h5g.get_objinfo(file["x"].id).mtime == 0


def test_writing_again_does_nothing_and_simulates_nothing(tmp_path: Path) -> None:
    def simulate() -> Iterator[NDArray[np.float32]]:
        raise AssertionError("there was nothing to simulate")
        yield

    path = tmp_path / "x.h5"
    write_trajectories(path, fields(), HOW)
    before = path.stat()
    assert not write_trajectories(path, simulate(), HOW, count=6)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reynolds": 500.0}, r"differing: reynolds; reynolds is 1000.0, wanted 500.0"),
        ({"seeds": [1, 3]}, "differing: seeds"),
        ({"extra": 1}, "differing: extra"),
    ],
)
def test_a_file_made_otherwise_is_never_overwritten(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "x.h5"
    write_trajectories(path, fields(), HOW)
    before = path.read_bytes()
    with pytest.raises(TrajectoryError, match=said):
        write_trajectories(path, fields(), {**HOW, **change})
    with pytest.raises(TrajectoryError, match=r"differing: \(count\)"):
        write_trajectories(path, fields(5), HOW)
    assert path.read_bytes() == before


def _spoiled(value: float) -> NDArray[np.float32]:
    x = fields()
    x[3, 2, 1, 0, 3] = value
    return x


@pytest.mark.parametrize(
    ("x", "count", "said"),
    [
        (_spoiled(np.nan), None, r"trajectory 3 holds 1 values .* = \(2, 1, 0, 3\)"),
        (_spoiled(-np.inf), None, "not finite"),
        (fields().astype(np.float64), None, "float32, found float64"),
        (fields()[0], None, r"expected x of shape \(n, T, C, H, W\), found \(9, 2, 4, 4\)"),
        (fields()[:, :, :0], None, r"expected x of shape"),
        (fields()[:0], None, "found none"),
        (fields(), 7, "expected 7 trajectories, found 6"),
        (fields(), 5, "as number 6"),
        ([fields()[0], fields()[1, :5]], None, r"found \(5, 2, 4, 4\) of float32 as number 2"),
        (iter(fields()), None, "needs `count`"),
    ],
)
def test_what_is_wrong_is_not_published(
    tmp_path: Path, x: Any, count: int | None, said: str
) -> None:
    with pytest.raises(TrajectoryError, match=said):
        write_trajectories(tmp_path / "x.h5", x, HOW, count=count)
    assert list(tmp_path.iterdir()) == []


def test_reserved_attributes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryError, match="reserved"):
        write_trajectories(tmp_path / "x.h5", fields(), {"finite": False})


FULL = """
import resource, sys
import numpy as np
from pipelines.trajectories import TrajectoryError, write_trajectories
x = np.ones((64, 8, 2, 16, 16), dtype=np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
try:
    write_trajectories(sys.argv[1], x, {})
except TrajectoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(write_trajectories(sys.argv[1], x, {}))
"""


def test_a_file_that_does_not_fit_gives_one_error_and_can_be_written_later(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "x.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, last = done.stdout.splitlines()
    assert "x.h5: cannot be written (" in first
    assert "nothing was published" in first
    assert last == "True"
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


SLOW = """
import sys, time
import numpy as np
from pipelines.trajectories import write_trajectories
def slow():
    for index in range(1000):
        print(index, flush=True)
        time.sleep(0.01)
        yield np.ones((8, 2, 16, 16), dtype=np.float32)
write_trajectories(sys.argv[1], slow(), {}, count=1000)
"""


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    command = [sys.executable, "-c", SLOW, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while writer.stdout.readline() != "20\n":
            pass
        writer.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert write_trajectories(path, fields(), HOW)
    np.testing.assert_array_equal(TrajectoryFile(path).read(5, 0, 9), fields()[5])


# --- Reading --------------------------------------------------------------------------------------


def test_windows_are_slices_of_the_trajectories(
    shards: tuple[list[Path], NDArray[np.float32]],
) -> None:
    paths, x = shards
    flat, plain = (TrajectoryDataset(paths, 5, flatten=flatten) for flatten in (True, False))
    assert (len(flat), flat.starts, flat.shape) == (13, 5, x.shape)
    pairs = [(i, s) for i in range(13) for s in range(5)]
    for i, s in pairs:
        np.testing.assert_array_equal(plain[i, s].numpy(), x[i, s : s + 5])
        np.testing.assert_array_equal(flat[i, s].numpy(), x[i, s : s + 5].reshape(10, 4, 4))
    indices, starts = zip(*pairs, strict=True)
    assert torch.equal(flat.windows(indices, starts), torch.stack([flat[pair] for pair in pairs]))
    assert plain.windows(torch.tensor([3]), torch.tensor([2])).shape == (1, 5, 2, 4, 4)
    np.testing.assert_array_equal(plain.trajectory(12).numpy(), x[12])


def test_a_batch_is_the_callers_own(shards: tuple[list[Path], NDArray[np.float32]]) -> None:
    dataset = TrajectoryDataset(shards[0], 3)
    dataset[0, 0].zero_()
    dataset.windows([0], [0]).zero_()
    assert dataset[0, 0].abs().sum() > 0


@pytest.mark.parametrize(("index", "start"), [(13, 0), (-1, 0), (0, 5), (0, -1)])
def test_what_is_out_of_range_is_refused(
    shards: tuple[list[Path], NDArray[np.float32]], index: int, start: int
) -> None:
    dataset = TrajectoryDataset(shards[0], 5)
    with pytest.raises(IndexError, match=r"expected a (trajectory|start) from 0 to"):
        dataset[index, start]
    with pytest.raises(IndexError, match="from 0 to"):
        dataset.windows([index], [start])


def test_an_index_must_name_its_start(shards: tuple[list[Path], NDArray[np.float32]]) -> None:
    loader = DataLoader(TrajectoryDataset(shards[0], 5), batch_size=2)
    with pytest.raises(TypeError, match=r"expected a pair \(trajectory, start\), found 0"):
        next(iter(loader))


@pytest.mark.parametrize("method", ["fork", "spawn"])
# Four workers are the point, also on a machine of two cores, where torch advises fewer; from
# Python 3.12 on, any fork beside torch's threads is warned of.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_four_workers_read_what_one_process_reads(
    shards: tuple[list[Path], NDArray[np.float32]], method: str
) -> None:
    paths, x = shards
    dataset = TrajectoryDataset(paths, 5)
    pairs = [(i, s) for i in range(13) for s in range(5)] * 4
    dataset.windows([0, 5, 12], [0, 0, 0])  # open handles here, which a fork inherits
    loader: DataLoader[Tensor] = DataLoader(
        dataset,
        batch_size=4,
        sampler=pairs,
        num_workers=4,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    read = []
    for batch in loader:
        read.append(batch)
        dataset.windows([1, 7], [2, 3])  # the parent goes on reading meanwhile
    expected = np.stack([x[i, s : s + 5].reshape(10, 4, 4) for i, s in pairs])
    np.testing.assert_array_equal(torch.cat(read).numpy(), expected)


def test_a_forked_reader_does_not_disturb_its_parent(
    shards: tuple[list[Path], NDArray[np.float32]],
) -> None:
    file = TrajectoryFile(shards[0][0])
    file.read(0, 0, 1)
    child = os.fork()
    if child == 0:  # only the exit code comes back
        same = False
        with suppress(Exception):
            same = np.array_equal(file.read(4, 0, 9), shards[1][4])
            os.lseek(_descriptor_of(file.path), 12_345, os.SEEK_SET)
            file.close()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(file.read(4, 0, 9), shards[1][4])


def _descriptor_of(path: Path) -> int:
    links = Path("/proc/self/fd").iterdir()
    (descriptor,) = [int(link.name) for link in links if link.resolve() == path.resolve()]
    return descriptor


# --- Bad files ------------------------------------------------------------------------------------


def _foreign(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, data=data)
    return path


def test_a_sound_foreign_file_is_read(tmp_path: Path) -> None:
    x = fields()
    dataset = TrajectoryDataset(_foreign(tmp_path / "x.h5", x=x), 4, flatten=False)
    np.testing.assert_array_equal(dataset[2, 3].numpy(), x[2, 3:7])


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ({"x": fields()[0]}, r"expected x of shape \(n, T, C, H, W\), found \(9, 2, 4, 4\)"),
        ({"x": fields().astype(np.float64)}, "expected x in little-endian float32, found float64"),
        ({"x": fields().astype(">f4")}, "little-endian"),
        ({"y": fields()}, "expected a dataset 'x', found none"),
        ({"x": _spoiled(np.nan)}, r"trajectory 3 holds 1 values that are not finite"),
        ({"x": fields()[:0]}, "expected x of shape"),
    ],
)
def test_a_foreign_file_of_another_form_is_refused(
    tmp_path: Path, datasets: dict[str, Any], said: str
) -> None:
    path = _foreign(tmp_path / "x.h5", **datasets)
    with pytest.raises(TrajectoryError, match=said) as caught:
        TrajectoryDataset(path, 2)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 100, 3000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.h5"
    write_trajectories(path, fields(), HOW)
    os.truncate(path, kept if kept >= 0 else path.stat().st_size + kept)
    with pytest.raises(TrajectoryError, match="is no whole HDF5 file"):
        TrajectoryFile(path)
    with pytest.raises(TrajectoryError, match="is no whole HDF5 file"):
        write_trajectories(path, fields(), HOW)


def test_what_befalls_an_open_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_trajectories(path, fields(), HOW)
    file = TrajectoryFile(path)
    with h5py.File(path, "r+") as altered:
        altered["x"][2, 5, 0, 0, 0] = np.nan
    np.testing.assert_array_equal(file.read(1, 0, 9), fields()[1])
    with pytest.raises(TrajectoryError, match=r"x.h5: expected finite values.* trajectory 2"):
        file.read(2, 0, 3)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(TrajectoryError, match=r"x.h5: trajectory 5: the file ends there"):
        file.read(5, 0, 9)


def test_a_file_with_a_preface_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=1024) as file:
        file["x"] = fields()
    np.testing.assert_array_equal(TrajectoryFile(tmp_path / "x.h5").read(3, 2, 4), fields()[3, 2:6])


def test_missing_files_and_differing_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryError, match="no such file"):
        TrajectoryDataset(tmp_path / "x.h5", 2)
    with pytest.raises(TrajectoryError, match="at least one"):
        TrajectoryDataset([], 2)
    write_trajectories(tmp_path / "a.h5", fields(steps=9), HOW)
    write_trajectories(tmp_path / "b.h5", fields(steps=8), HOW)
    with pytest.raises(TrajectoryError, match=r"b.h5: expected .*\(9, 2, 4, 4\).*a.h5"):
        TrajectoryDataset([tmp_path / "a.h5", tmp_path / "b.h5"], 2)
    with pytest.raises(TrajectoryError, match="a window of 1 to 9 frames, found 10"):
        TrajectoryDataset(tmp_path / "a.h5", 10)


def test_a_slow_layout_is_told_and_can_be_mended(tmp_path: Path) -> None:
    x = fields()
    with h5py.File(tmp_path / "slow.h5", "w") as file:
        file.create_dataset("x", data=x, compression="gzip", chunks=True)
        file.attrs["reynolds"] = 1000.0
    with pytest.warns(
        SlowLayoutWarning, match=r"compression gzip; .* took .* ms here; .*yaoki repack"
    ):
        slow = TrajectoryFile(tmp_path / "slow.h5")
    rewrite(slow.path, tmp_path / "fast.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = TrajectoryFile(tmp_path / "fast.h5")
    assert fast.attributes["reynolds"] == 1000.0
    np.testing.assert_array_equal(fast.read(3, 0, 9), x[3])


# --- Splitting ------------------------------------------------------------------------------------


def test_the_split_is_the_official_one() -> None:
    assert split(1024) == (range(819), range(819, 921), range(921, 1024))


@given(st.integers(3, 10_000), st.sampled_from([(0.8, 0.1, 0.1), (0.98, 0.01, 0.01), (0.1, 0.9)]))
def test_a_split_covers_all_once_and_leaves_no_part_empty(n: int, parts: tuple[float, ...]) -> None:
    ranges = split(n, parts)
    assert [i for part in ranges for i in part] == list(range(n))
    assert all(ranges)
    assert all(
        abs(len(part) - n * share) <= len(parts) for part, share in zip(ranges, parts, strict=True)
    )


@pytest.mark.parametrize(
    ("n", "parts", "said"),
    [
        (2, (0.8, 0.1, 0.1), "at least 3 trajectories"),
        (9, (0.8, 0.1), "sum to 1"),
        (9, (1.1, -0.1), "positive"),
    ],
)
def test_an_impossible_split_is_refused(n: int, parts: tuple[float, ...], said: str) -> None:
    with pytest.raises(TrajectoryError, match=said):
        split(n, parts)
