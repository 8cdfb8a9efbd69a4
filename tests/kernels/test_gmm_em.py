"""The laws of expectation-maximization, with its bounds at work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.gmm.em import (
    SigmaBounds,
    cell_responsibilities,
    em_step_cells,
    em_step_points,
    responsibilities,
    sigma_bounds,
)
from kernels.gmm.gridded import Gridded, cross_entropy, gridded_moments
from kernels.gmm.mixture import Mixture, log_cell_masses, log_density, moments

FREE = SigmaBounds(torch.tensor([[1e-9]]).double(), torch.tensor([[1e9]]).double())


def _problem(seed: int, components: int, batch: int = 4) -> tuple[Gridded, Mixture]:
    """Rough masses on rough grids, and mixtures that do not fit them."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    edges = (uniform(batch, 41) * 3 - 2).exp().cumsum(-1)
    masses = (uniform(batch, 40) ** 8).clamp(min=1e-12)
    span = edges[:, -1:] - edges[:, :1]
    means = edges[:, :1] + span * uniform(batch, components)
    sigmas = span * (6 * uniform(batch, components) - 7).exp()
    weights = (4 * uniform(batch, components)).log_softmax(-1)
    return Gridded(masses / masses.sum(-1, keepdim=True), edges), Mixture(weights, means, sigmas)


def _middle(gridded: Gridded) -> Tensor:
    return 0.5 * (gridded.edges[:, 1:] + gridded.edges[:, :-1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), components=st.integers(1, 16))
def test_responsibilities_sum_to_one(seed: int, components: int) -> None:
    gridded, m = _problem(seed, components)
    for share in (
        responsibilities(m, _middle(gridded)),
        cell_responsibilities(m, gridded.edges),
    ):
        torch.testing.assert_close(share.sum(-1), torch.ones(4, 40).double(), rtol=0, atol=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), components=st.integers(1, 16), floor=st.floats(1e-4, 0.1))
def test_no_step_lowers_the_likelihood_floors_or_not(
    seed: int, components: int, floor: float
) -> None:
    gridded, m = _problem(seed, components)
    span = gridded.edges[:, -1:] - gridded.edges[:, :1]
    bounds = SigmaBounds(floor * span, 0.2 * span)
    z = _middle(gridded)
    # Bounds are a set to stay in: monotone from the first point inside.
    m = m._replace(sigmas=torch.minimum(torch.maximum(m.sigmas, bounds.low), bounds.high))
    points = m
    for _ in range(5):
        after = em_step_cells(m, gridded.masses, gridded.edges, bounds)
        assert (cross_entropy(gridded, after) - cross_entropy(gridded, m)).max() < 1e-12
        then = em_step_points(points, gridded.masses, z, bounds)
        gain = (gridded.masses * (log_density(then, z) - log_density(points, z))).sum(-1)
        assert gain.min() > -1e-12
        m, points = after, then


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), components=st.integers(1, 16))
def test_moments_match_after_a_step_on_points(seed: int, components: int) -> None:
    gridded, m = _problem(seed, components)
    z = _middle(gridded)
    found = moments(em_step_points(m, gridded.masses, z, FREE))
    mean = (gridded.masses * z).sum(-1)
    variance = (gridded.masses * (z - mean.unsqueeze(-1)).square()).sum(-1)
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.variance, variance, rtol=1e-6, atol=1e-9)


def test_moments_match_after_a_step_on_cells() -> None:
    """They are those of the masses spread within each cell as the mixture before the step is."""
    gridded, m = _problem(3, 4)
    parts = torch.arange(500, dtype=torch.float64) / 500
    fine = gridded.edges[:, :-1, None] + gridded.edges.diff(dim=-1).unsqueeze(-1) * parts
    fine = torch.cat([fine.flatten(1), gridded.edges[:, -1:]], dim=-1)
    share = log_cell_masses(m, fine).reshape(4, -1, 500).softmax(-1)
    masses = (gridded.masses.unsqueeze(-1) * share).flatten(1)
    mean, variance = gridded_moments(Gridded(masses, fine))
    found = moments(em_step_cells(m, gridded.masses, gridded.edges, FREE))
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.variance, variance, rtol=1e-4, atol=0)


def test_a_row_knows_nothing_of_its_batch() -> None:
    gridded, m = _problem(5, 5)
    spoiled = gridded._replace(masses=gridded.masses.clone())
    spoiled.masses[1] = torch.nan
    together = em_step_cells(m, spoiled.masses, spoiled.edges, sigma_bounds(spoiled))
    for row in (0, 2, 3):
        one = Mixture(*(tensor[row : row + 1] for tensor in m))
        part = gridded.rows(torch.tensor([row]))
        alone = em_step_cells(one, part.masses, part.edges, sigma_bounds(part))
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[row], rtol=1e-13, atol=0)


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e6, 3e6), (-1.0, 0.0)])
def test_a_step_is_the_same_in_other_units_and_mirrored(scale: float, shift: float) -> None:
    gridded, m = _problem(7, 4)
    moved = m._replace(means=scale * m.means + shift, sigmas=abs(scale) * m.sigmas)
    masses, edges = gridded.masses, scale * gridded.edges + shift
    if scale < 0:
        masses, edges = masses.flip(-1), edges.flip(-1)
    after = em_step_cells(m, gridded.masses, gridded.edges, sigma_bounds(gridded))
    other = em_step_cells(moved, masses, edges, sigma_bounds(Gridded(masses, edges)))
    torch.testing.assert_close(other.log_weights, after.log_weights, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(other.means, scale * after.means + shift, rtol=1e-9, atol=0)
    torch.testing.assert_close(other.sigmas, abs(scale) * after.sigmas, rtol=1e-8, atol=0)


def test_a_component_without_mass_stays_where_it_is() -> None:
    gridded, m = _problem(9, 3)
    far = m._replace(means=m.means.clone(), sigmas=m.sigmas.clone())
    far.means[:, 2], far.sigmas[:, 2] = 1e4, 1e-3
    after = em_step_cells(far, gridded.masses, gridded.edges, sigma_bounds(gridded))
    assert all(tensor.isfinite().all() for tensor in after)
    assert (after.means[:, 2] == 1e4).all()


def test_bounds_follow_what_the_values_mean() -> None:
    gridded, _ = _problem(1, 1)
    cells = sigma_bounds(gridded).low
    points = sigma_bounds(gridded._replace(kind="point_density")).low
    torch.testing.assert_close(points, 12 * cells)
