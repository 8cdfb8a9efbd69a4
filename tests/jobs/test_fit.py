"""``fit``: mixtures of a store from the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from support.commandline import yaoki

from jobs.cli import main
from kernels.gmm.families import FAMILIES, draw_batch, uniform_edges
from pipelines.mixtures import create_densities

EDGES = uniform_edges(48)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    batch = draw_batch(tuple(FAMILIES), 28, EDGES, torch.Generator().manual_seed(0))
    values = batch.masses().numpy()
    values[3] = np.nan
    create_densities(tmp_path / "densities.zarr", values, EDGES.numpy(), "cell_mass", "ps")
    return tmp_path / "densities.zarr"


def test_a_store_is_fitted_and_told_of_in_json(store: Path) -> None:
    out = store.parent / "fits.zarr"
    record = yaoki("fit", store, "--components", 4, "-o", out, "--json").record
    assert (record["densities"], record["fitted"], record["flags"]["not_finite"]) == (28, 27, 1)
    with xarray.open_zarr(out) as found:
        assert found["means"].shape == (28, 4)
        assert record["kl_mean"] == pytest.approx(float(np.nanmean(found["kl"])))


def test_a_store_is_fitted_and_told_of_to_people(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(store)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{store.parent / 'densities-mixtures.zarr'}: ")
    assert "mixtures of 27 of 28 densities" in told
    assert "1 not finite" in told
    assert main(["fit", str(store), "-o", str(store.parent / "all.zarr"), "--replace"]) == 0
    assert "mixtures of 28 of 28 densities" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--components", "17"), 2, "expected 1 to 16, found 17"),
        (("--array", "nothing"), 1, "expected nothing to be an array"),
        (("--grid", "nothing"), 1, "name the array of the grid"),
        (("--kind", "point_density"), 1, "point_density values"),
        (("--model", "no.pt"), 1, "no such model"),
    ],
)
def test_what_cannot_be_fitted_is_one_message(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    code: int,
    text: str,
) -> None:
    out = store.parent / "fits.zarr"
    assert main(["fit", str(store), "-o", str(out), *options]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("yaoki: ")
    assert text in captured.err
    assert not out.exists()
