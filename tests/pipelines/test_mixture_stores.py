"""Fits from one Zarr store to another, as fits in memory, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
import zarr

from kernels.gmm.families import FAMILIES, draw_batch, uniform_edges
from pipelines.mixtures import (
    DensityError,
    create_densities,
    fit_mixture,
    fit_store,
    open_densities,
)

EDGES = uniform_edges(48)
BATCH = draw_batch(tuple(FAMILIES), 42, EDGES, torch.Generator().manual_seed(0))
MASSES = BATCH.masses().numpy()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    create_densities(tmp_path / "densities.zarr", MASSES, EDGES.numpy(), "cell_mass", "ps")
    return tmp_path / "densities.zarr"


def test_a_store_is_fitted_as_an_array_is_in_blocks_of_any_size(store: Path) -> None:
    wanted = fit_mixture(MASSES, EDGES, 3, kind="cell_mass")
    seen: list[tuple[int, int]] = []
    for rows in (42, 10):
        out = store.parent / f"fits-{rows}.zarr"
        summary = fit_store(
            open_densities(store), out, 3, rows=rows, progress=lambda *at: seen.append(at)
        )
        with xarray.open_zarr(out) as found:
            np.testing.assert_allclose(found["kl"], wanted.kl, atol=1e-9)
            for name, column in zip(("means", "sigmas"), wanted.mixture[1:], strict=True):
                np.testing.assert_allclose(found[name], column, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(found["weights"].sum("component"), 1)
        assert summary.kl_mean == pytest.approx(float(wanted.kl.mean()))
        assert (summary.densities, summary.fitted) == (42, 42)
    assert seen == [(42, 42), (10, 42), (20, 42), (30, 42), (40, 42), (42, 42)]


def test_what_is_stored_says_what_it_is(store: Path) -> None:
    values = MASSES.copy()
    values[5] = np.nan
    create_densities(store.parent / "other.zarr", values, EDGES.numpy(), "cell_mass", "ps")
    fit_store(open_densities(store.parent / "other.zarr"), store.parent / "fits.zarr", 3)
    with xarray.open_zarr(store.parent / "fits.zarr") as found:
        assert found["means"].dims == ("density_index", "component")
        assert [found[n].attrs["units"] for n in ("weights", "means", "sigmas")] == [
            "1",
            "ps",
            "ps",
        ]
        assert found.attrs["source"] == "other.zarr/mass"
        assert found.attrs["method"] == "classical"
        meanings = found["flags"].attrs["flag_meanings"].split()
        masks = dict(zip(meanings, found["flags"].attrs["flag_masks"], strict=True))
        assert np.flatnonzero(found["flags"].values & masks["not_finite"]).tolist() == [5]
        assert np.isnan(found["sigmas"].values).any(axis=1).nonzero()[0].tolist() == [5]


def test_counts_and_point_densities_with_a_grid_each_are_read(tmp_path: Path) -> None:
    points = ((EDGES[1:] + EDGES[:-1]) / 2).numpy()
    counts = np.round(1e6 * MASSES).astype(np.int64)
    create_densities(tmp_path / "counts.zarr", counts, EDGES.numpy(), "histogram")
    grids = np.arange(42)[:, None] + points
    create_densities(tmp_path / "points.zarr", BATCH.pdf(EDGES[1:]).numpy(), grids, "point_density")
    for name in ("counts", "points"):
        summary = fit_store(
            open_densities(tmp_path / f"{name}.zarr"), tmp_path / f"{name}-fits.zarr", 3, rows=30
        )
        assert summary.fitted == 42
    means = [
        np.asarray(zarr.open_array(tmp_path / f"{name}-fits.zarr/means", mode="r")[:, 0])
        for name in ("counts", "points")
    ]
    assert means[1][41] > means[0][41] + 30  # its own grid begins 41 further on


def test_a_group_of_others_is_read_by_names(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "theirs.zarr")
    group.create_array("pz", data=MASSES)
    group.create_array("bins", data=EDGES.numpy())
    found = open_densities(tmp_path / "theirs.zarr", "pz", "bins", "cell_mass")
    assert (found.count, found.dimension, found.units) == (42, "density", "1")
    with pytest.raises(DensityError, match="expected a kind, one of point_density"):
        open_densities(tmp_path / "theirs.zarr", grid="bins")
    with pytest.raises(DensityError, match="48 points or 49 edges of the grid, found none"):
        open_densities(tmp_path / "theirs.zarr", kind="cell_mass")
    with pytest.raises(DensityError, match="an array of numbers"):
        open_densities(tmp_path / "theirs.zarr", "zz", "bins", "cell_mass")
    group.create_array("more", data=MASSES)
    with pytest.raises(DensityError, match="found \\['more', 'pz'\\]"):
        open_densities(tmp_path / "theirs.zarr", grid="bins", kind="cell_mass")


def test_what_fails_leaves_nothing_behind(store: Path) -> None:
    before = sorted(store.parent.iterdir())
    wrong = open_densities(store, kind="point_density")  # which edges are no grid for
    with pytest.raises(DensityError, match="point_density values"):
        fit_store(wrong, store.parent / "fits.zarr", 3)
    with pytest.raises(DensityError, match="there is something already"):
        fit_store(open_densities(store), store, 3)
    with pytest.raises(ValueError, match="a store keeps its rows"):
        fit_store(open_densities(store), store.parent / "fits.zarr", 3, policy="drop")
    with pytest.raises(DensityError, match="expected a Zarr group"):
        open_densities(store.parent / "none.zarr")
    assert sorted(store.parent.iterdir()) == before
