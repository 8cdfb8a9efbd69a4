"""Laws of checkpoints: what comes back is what was saved, and a bad file costs one save at most."""

import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.disks import fill, small_disk
from support.small_work import SmallTrainer, equal

from cluster.checkpoints import random_state
from cluster.checkpoints.checkpoint import CheckpointError, CheckpointStore

_SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
import torch
from cluster.checkpoints.checkpoint import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]))
for step in itertools.count(1):
    store.save(step, {"step": step, "weights": torch.full((200_000,), float(step))})
    print(step, flush=True)
"""

tensors = st.builds(
    lambda shape, dtype: (torch.randn(shape) * 10).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
states = st.recursive(
    leaves | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _point_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


damages = pytest.mark.parametrize("damage", [_tear, _flip_a_bit, _empty, _point_to_nothing])


@given(st.dictionaries(st.text(max_size=4), states, max_size=3), st.integers(0, 10**11))
@settings(max_examples=50, deadline=None)
def test_what_comes_back_is_what_was_saved(state: dict[str, Any], step: int) -> None:
    with TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder) / "new")
        path = store.save(step, state)
        found = store.load()
        assert found is not None
        assert (found.step, found.path) == (step, path)
        assert equal(found.state, state)


def test_a_trainer_and_its_generators_come_back(tmp_path: Path) -> None:
    def go_on(trainer: SmallTrainer) -> dict[str, Any]:
        for _ in range(3):
            trainer.step()
        return trainer.result()

    store, trainer, other = CheckpointStore(tmp_path), SmallTrainer(3), SmallTrainer(99)
    trainer.step()
    store.save(1, {"work": trainer.state_dict(), "random": random_state.capture()})
    expected = go_on(trainer)
    found = store.load()
    assert found is not None
    other.load_state_dict(found.state["work"])
    random_state.restore(found.state["random"])
    assert equal(go_on(other), expected)


def test_an_empty_directory_holds_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent").load() is None
    assert CheckpointStore(tmp_path).load() is None


def test_as_many_are_kept_as_asked_for(tmp_path: Path) -> None:
    for keep in (2, 3):
        store = CheckpointStore(tmp_path / str(keep), keep)
        paths = [store.save(step, {"step": step}) for step in range(6)]
        assert sorted(store.directory.iterdir()) == paths[-keep:]
    with pytest.raises(ValueError, match="expected at least 2"):
        CheckpointStore(tmp_path, keep=1)


def test_no_more_bytes_are_kept_than_asked_for(tmp_path: Path) -> None:
    state = {"weights": torch.ones(1000)}
    size = CheckpointStore(tmp_path / "one").save(1, state).stat().st_size
    for room, count in ((0.0, 2), (2.9, 2), (3.0, 3), (3.9, 3), (99.0, 4)):
        store = CheckpointStore(tmp_path / str(room), keep=4, keep_bytes=int(room * size))
        paths = [store.save(step, state) for step in range(6)]
        assert sorted(store.directory.iterdir()) == paths[-count:]
    # A large new one pushes out small old ones, and never the one before it.
    store = CheckpointStore(tmp_path / "grown", keep=9, keep_bytes=5 * size)
    paths = [store.save(step, state) for step in range(4)]
    paths.append(store.save(4, {"weights": torch.ones(100_000)}))
    assert sorted(store.directory.iterdir()) == paths[-2:]
    with pytest.raises(ValueError, match="keep_bytes: expected"):
        CheckpointStore(tmp_path, keep_bytes=-1)


@damages
def test_a_damaged_newest_falls_back_with_a_warning(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"weights": torch.ones(100)})
    damage(store.save(2, {"weights": torch.ones(100)}))
    with pytest.warns(UserWarning, match="falling back to the one before"):
        found = store.load()
    assert found is not None
    assert found.step == 1


@damages
def test_all_damaged_is_an_error_that_says_what_to_do(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        damage(store.save(step, {"weights": torch.ones(100)}))
    with (
        pytest.warns(UserWarning, match="falling back"),
        pytest.raises(CheckpointError, match=r"expected a whole checkpoint, found 2.*Move the"),
    ):
        store.load()


def test_a_damaged_one_takes_no_place_among_those_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(40, {"step": 40})
    _tear(store.save(50, {"step": 50}))
    with pytest.warns(UserWarning, match="falling back"):
        store.load()
    store.save(45, {"step": 45})
    _tear(store.save(48, {"step": 48}))
    # 45 must still be there, whatever became of the torn 50.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = store.load()
    assert found is not None
    assert found.step == 45


def test_the_same_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for value in range(20):
        store.save(7, {"value": value})
        found = store.load()
        assert found is not None
        assert found.state == {"value": value}


def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        store = CheckpointStore(disk / "checkpoint")
        store.save(1, {"weights": torch.ones(100)})
        before = sorted(store.directory.iterdir())
        fill(disk)
        with pytest.raises(CheckpointError, match=r"could not save step 2.*No space left"):
            store.save(2, {"weights": torch.ones(100)})
        assert sorted(store.directory.iterdir()) == before
        found = store.load()
        assert found is not None
        assert found.step == 1


def test_a_killed_writer_is_harmless(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SAVE_FOREVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(random.randrange(2, 12))]
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(random.uniform(0.0, 0.02))
        writer.send_signal(signal.SIGKILL)
    store = CheckpointStore(tmp_path)
    found = store.load()
    assert found is not None
    assert found.step >= said[-1]
    assert torch.equal(found.state["weights"], torch.full((200_000,), float(found.step)))
    store.save(found.step + 1, {})
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("value", [np.float64(0.5), np.ones(3), Path("/data")])
def test_a_state_that_could_not_be_loaded_is_refused_when_it_is_saved(
    tmp_path: Path, value: object
) -> None:
    # Found at the save, it costs nothing; found at the restore, it costs the run.
    store = CheckpointStore(tmp_path)
    store.save(1, {"weights": torch.ones(3)})
    with pytest.raises(CheckpointError, match="step 2"):
        store.save(2, {"value": value})
    found = store.load()
    assert found is not None
    assert found.step == 1
