"""The house stands: imports only go down, types are shipped, light modules stay light."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("jobs", "pipelines", "cluster", "kernels")
HEAVY = ("torch", "zarr", "wandb", "numcodecs", "h5py", "matplotlib", "scipy")
LIGHT = (
    "cluster",
    "cluster.executor",
    "cluster.submitting.sending",
    "cluster.scheduler.slurm",
    "cluster.records.ledger",
    "cluster.stage",
    "cluster.submitting.submission",
    "cluster.local",
    "cluster.aftermath",
    "cluster.worker",
    "cluster.status",
    "cluster.accounts.bookkeeping",
)


def _contract(directory: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contract of pyproject.toml on the packages in a directory."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    environment = os.environ | {"PYTHONPATH": str(directory)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_only_go_down() -> None:
    done = _contract(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("kernels.sde", "cluster.executor"),
        ("cluster.executor", "kernels.sde"),
        ("cluster.executor", "pipelines.plan"),
        ("pipelines.plan", "jobs.launch"),
        ("cluster.records.ledger", "cluster.stage"),
        ("cluster.stopping.signals", "cluster.checkpoints.saving"),
    ],
)
def test_the_contract_finds_an_arrow_that_runs_up(tmp_path: Path, below: str, above: str) -> None:
    done = _contract_with_arrow(tmp_path, below, above)
    assert done.returncode == 1
    assert f"{below} -> {above}" in done.stdout


def test_the_contract_finds_a_circle(tmp_path: Path) -> None:
    done = _contract_with_arrow(tmp_path, "kernels.gmm.gridded", "kernels.gmm.reading")
    assert done.returncode == 1
    assert "No cycles are allowed in kernels.gmm." in done.stdout


def _contract_with_arrow(
    tmp_path: Path, below: str, above: str
) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for floor in FLOORS:
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=shutil.ignore_patterns("*.pyc"))
    package, _, part = above.rpartition(".")
    with (tmp_path / f"{below.replace('.', '/')}.py").open("a") as file:
        file.write(f"\n\ndef late():\n    from {package} import {part}\n")
    return _contract(tmp_path)


@pytest.mark.parametrize("floor", FLOORS)
def test_types_are_shipped(floor: str) -> None:
    assert (ROOT / floor / "py.typed").is_file()
    folders = {path.parent for path in (ROOT / floor).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_name_of_the_cluster_package_is_there() -> None:
    package = import_module("cluster")
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
