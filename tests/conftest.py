"""What several test files share: a real Slurm, brought up once a session."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from cluster.slurmbox import SlurmBox, SlurmUnavailableError, require_available


# A wrapper, to come before pytest-xdist's own, which reads the groups.
@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """For `pytest -n 2 --dist loadgroup`: the files on Slurm share one process, hence one box.

    Most of their time is spent waiting for Slurm, and the other files run beside them,
    each as a whole, for the sake of its fixtures.
    """
    on_slurm = {item.path for item in items if item.get_closest_marker("slurm")}
    for item in items:
        group = "slurm" if item.path in on_slurm else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    yield


_BOX = pytest.StashKey[SlurmBox]()


def _heal(session: pytest.Session) -> None:
    """Bring the box back into service, if there is one.

    Debian's slurmd has died of a fault of its own. systemd would start it again; here nobody does,
    and every test after it would fail.
    """
    if (box := session.stash.get(_BOX, None)) is not None:
        box.up()


@pytest.fixture(scope="module", autouse=True)
def healed_for_a_file(request: pytest.FixtureRequest) -> None:
    """Heal the box before the fixtures of a file use it."""
    _heal(request.session)


@pytest.fixture(autouse=True)
def healed_for_a_test(request: pytest.FixtureRequest) -> None:
    """Heal the box before a test on it; a fixture of its file may have had a fake Slurm in PATH."""
    if request.node.get_closest_marker("slurm"):
        _heal(request.session)


@pytest.fixture(scope="session")
def slurmbox(request: pytest.FixtureRequest) -> Iterator[SlurmBox]:
    """A box of its own, with SLURM_CONF set for everything that the session starts.

    Without packages or root the tests that ask for it are skipped, unless
    YAOKI_REQUIRE_SLURM=1 asks that they fail.
    """
    try:
        require_available()
    except SlurmUnavailableError as error:
        if os.environ.get("YAOKI_REQUIRE_SLURM") == "1":
            pytest.fail(f"YAOKI_REQUIRE_SLURM=1, and {error}", pytrace=False)
        pytest.skip(str(error))
    # Not pytest's tmp_path: its parents are closed to the user that the database runs as.
    directory = Path(tempfile.mkdtemp(prefix="yaoki-slurmbox-", dir="/tmp"))
    directory.chmod(0o755)
    box = SlurmBox(directory)
    try:
        box.up()
        with pytest.MonkeyPatch.context() as patch:
            for key, value in box.environment.items():
                patch.setenv(key, value)
            request.session.stash[_BOX] = box
            yield box
            del request.session.stash[_BOX]
    finally:
        box.down(purge=True)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def quick_collection() -> Iterator[None]:
    """Keep collections of garbage, which every heal makes, from walking all that is loaded."""
    # An optimizer's first step would load it, after the freeze.
    import_module("torch._dynamo")
    gc.freeze()
    yield
    gc.unfreeze()
