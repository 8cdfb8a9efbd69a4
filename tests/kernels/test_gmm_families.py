"""Batches of densities: reproducible, exact on the grid, equivariant, resolved as promised."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gmm.families import (
    FAMILIES,
    HELD_OUT,
    TRAINED,
    draw,
    draw_batch,
    random_edges,
    uniform_edges,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_batch_depends_on_its_generator_alone() -> None:
    edges = uniform_edges()
    draw_batch(TRAINED, 40, edges, seeded(0))  # whatever was drawn before
    batch, again = (draw_batch(TRAINED, 40, edges, seeded(7)) for _ in range(2))
    other = draw_batch(TRAINED, 40, edges, seeded(8))
    assert torch.equal(batch.masses(), again.masses())
    assert not torch.equal(batch.masses(), other.masses())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("points", [48, 96, 512])
def test_masses_are_a_distribution_and_resolved_where_promised(name: str, points: int) -> None:
    edges = uniform_edges(points)
    density = draw(name, 8, edges, seeded(points))
    masses = density.masses(edges)
    assert masses.shape == (8, points)
    assert masses.min() >= 0
    torch.testing.assert_close(masses.sum(dim=1), torch.ones(8, dtype=torch.float64))
    if FAMILIES[name].resolved:
        assert density.resolved(edges).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_quantiles_invert_the_distribution_function(name: str) -> None:
    density = draw(name, 6, uniform_edges(), seeded(2))
    p = torch.tensor([0.00135, 0.1, 0.5, 0.9, 0.99865], dtype=torch.float64)
    torch.testing.assert_close(density.cdf(density.quantile(p)), p.expand(6, -1), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_point_densities_integrate_to_the_masses(name: str) -> None:
    density = draw(name, 4, uniform_edges(), seeded(3))
    fine = torch.linspace(density.low, density.high, 96 * 100 + 1, dtype=torch.float64)
    middle = (fine[1:] + fine[:-1]) / 2
    sums = (density.pdf(middle) * fine.diff()).reshape(-1, 96, 100).sum(dim=2)
    wide = FAMILIES[name].resolved  # a spike falls between even these points
    masses = density.masses(uniform_edges())
    torch.testing.assert_close(sums, masses, atol=2e-3 if wide else 2e-2, rtol=0)


@settings(max_examples=8, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-12, 6))
def test_masses_know_no_origin_and_no_unit(shift: float, decades: float) -> None:
    edges, unit = uniform_edges(64), 10**decades
    batch = draw_batch(tuple(FAMILIES), 28, edges, seeded(4))
    moved = draw_batch(tuple(FAMILIES), 28, (edges + shift) * unit, seeded(4))
    torch.testing.assert_close(moved.masses(), batch.masses(), atol=1e-8, rtol=0)
    assert torch.equal(moved.family, batch.family)


def test_random_grids_are_of_the_length_and_kind_asked_for() -> None:
    grids = [random_edges(seeded(seed)) for seed in range(40)]
    uneven = [float(edges.diff().max() / edges.diff().min()) for edges in grids]
    assert all(48 <= len(edges) - 1 <= 512 for edges in grids)
    assert all((edges.diff() > 0).all() for edges in grids)
    assert 10 <= sum(ratio < 1 + 1e-9 for ratio in uneven) <= 30
    assert 2 < max(uneven) <= 4.001


def test_families_are_fourteen_and_some_are_never_trained_on() -> None:
    assert len(FAMILIES) == 14
    assert set(TRAINED) | set(HELD_OUT) == set(FAMILIES)
    assert not set(TRAINED) & set(HELD_OUT)
    batch = draw_batch(HELD_OUT, 10, uniform_edges(), seeded(5))
    assert torch.bincount(batch.family).tolist() == [3, 3, 2, 2]


def test_a_batch_too_small_for_its_families_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one density a family, 14; found 3"):
        draw_batch(tuple(FAMILIES), 3, uniform_edges(), seeded(6))
