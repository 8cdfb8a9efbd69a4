"""The classical solver as users call it."""

import pytest
import torch

from kernels.gmm.descent import Method, descend
from kernels.gmm.em import SigmaBounds
from kernels.gmm.gridded import Gridded, kl_divergence
from kernels.gmm.mixture import Mixture, log_cell_masses, quantile
from kernels.gmm.reading import read_gridded
from kernels.gmm.solve import solve
from kernels.gmm.start import gridded_quantile, quantile_start

EDGES = torch.linspace(-8, 8, 97, dtype=torch.float64)


def _hard(scale: float = 1.0) -> Gridded:
    """Three far modes of unlike widths, a uniform, an exponential, and a single spike."""
    m = Mixture(*torch.tensor([[[0.2, 0.5, 0.3]], [[-5.0, 0.0, 4.0]], [[0.3, 1.5, 0.2]]]).double())
    modes = log_cell_masses(m._replace(log_weights=m.log_weights.log()), EDGES).exp()
    uniform = ((EDGES[1:] > -3) & (EDGES[1:] < 3)).double()
    decay = torch.where(EDGES[1:] > -2, (-EDGES[1:]).exp(), 0.0)
    spike = torch.zeros(96, dtype=torch.float64)
    spike[40] = 1
    rows = torch.stack([modes[0], uniform, decay, spike])
    return read_gridded(rows, scale * EDGES, "histogram")[0]


@pytest.mark.parametrize("components", [1, 2, 5, 16])
@pytest.mark.parametrize("starts", [1, 2, 5])
def test_every_number_of_components_and_starts_is_fitted(components: int, starts: int) -> None:
    gridded = _hard()
    fit = solve(gridded, components, starts=starts)
    assert all(tensor.isfinite().all() for tensor in fit.mixture)
    assert fit.mixture.means.shape == (4, components)
    assert (fit.mixture.means.diff() >= 0).all()
    torch.testing.assert_close(fit.kl, kl_divergence(gridded, fit.mixture), rtol=0, atol=1e-12)
    assert not fit.failed.any()
    assert fit.kl[3] < 1e-5
    if components >= 5:
        assert fit.kl[0] < 1e-6


def test_more_starts_are_no_worse_and_scoring_is_no_worse_than_em() -> None:
    gridded = _hard()
    one, many = solve(gridded, 5, starts=1, budget=200), solve(gridded, 5, starts=10, budget=200)
    em = solve(gridded, 5, "em", starts=1, budget=200, tolerance=0.0)
    assert (many.kl <= one.kl + 1e-7).all()
    assert (many.kl <= em.kl).all()
    assert (many.iterations > one.iterations).all()


@pytest.mark.parametrize(("method", "starts"), [("em", 1), ("squarem", 2), ("scoring", 8)])
def test_tensor_operations_lead_to_the_same_fit(method: Method, starts: int) -> None:
    gridded = _hard()
    bounds = SigmaBounds(*torch.tensor([[[0.3]], [[4.0]]], dtype=torch.float64))
    fits = [
        solve(gridded, 3, method, starts, budget=20, compiled=c, bounds=bounds)
        for c in (True, False)
    ]
    torch.testing.assert_close(fits[0].kl, fits[1].kl, rtol=0, atol=1e-9)
    assert torch.equal(fits[0].iterations, fits[1].iterations)


def test_anderson_and_single_precision_have_the_batched_path() -> None:
    gridded = _hard()
    em = descend(gridded, quantile_start(gridded, 4), "em", budget=24, tolerance=0.0)
    anderson = solve(gridded, 4, "anderson", starts=1, budget=24)
    assert (anderson.kl[:3] < em.kl[:3]).all()
    single = solve(gridded.to(torch.float32), 4, starts=1, tolerance=1e-6, compiled=False)
    assert single.kl.dtype == torch.float32
    exact = solve(gridded, 4, starts=1, tolerance=1e-6)
    assert (single.kl < 2 * exact.kl + 1e-4).all()


def test_rows_that_cannot_be_fitted_fail_alone() -> None:
    gridded = _hard()
    spoiled = gridded._replace(masses=gridded.masses.clone())
    spoiled.masses[1] = torch.nan
    for compiled in (True, False):
        fit = solve(spoiled, 3, budget=10, compiled=compiled)
        whole = solve(gridded, 3, budget=10, compiled=compiled)
        assert fit.failed.tolist() == [False, True, False, False]
        assert all(tensor[1].isnan().all() for tensor in fit.mixture)
        torch.testing.assert_close(fit.kl[[0, 2, 3]], whole.kl[[0, 2, 3]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_units_and_reflection_change_nothing(scale: float) -> None:
    fit, other = solve(_hard(), 4), solve(_hard(scale), 4)
    torch.testing.assert_close(other.kl, fit.kl, rtol=0, atol=2e-5)
    mirrored = Gridded(_hard().masses.flip(-1), -_hard().edges.flip(-1))
    torch.testing.assert_close(solve(mirrored, 4).kl, fit.kl, rtol=0, atol=2e-5)


def test_points_keep_their_floor() -> None:
    z = torch.linspace(-8, 8, 97, dtype=torch.float64)
    density = torch.zeros(1, 97, dtype=torch.float64)
    density[0, 50] = 6.0
    gridded, findings = read_gridded(density, z, "point_density")
    assert findings.unresolved.all()
    floor = 0.6 * float(z[1] - z[0])
    assert (solve(gridded, 3).mixture.sigmas >= floor * (1 - 1e-9)).all()


def test_starts_lie_at_quantiles_and_differ() -> None:
    gridded = _hard()
    for number in range(9):
        m = quantile_start(gridded, 5, number)
        assert (m.means.diff() >= 0).all()
        alone = quantile_start(gridded.rows(torch.tensor([2])), 5, number)
        assert torch.equal(alone.means[0], m.means[2])
        assert torch.equal(alone.sigmas[0], m.sigmas[2])
    assert not torch.equal(quantile_start(gridded, 5, 7).means, quantile_start(gridded, 5, 8).means)
    normal = Mixture(*torch.tensor([[[0.0]], [[1.0]], [[1.5]]], dtype=torch.float64))
    p = torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64)
    cells = Gridded(log_cell_masses(normal, EDGES).exp(), EDGES.unsqueeze(0))
    torch.testing.assert_close(gridded_quantile(cells, p), quantile(normal, p), rtol=0, atol=0.02)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="found 0 and 4"):
        solve(_hard(), 0)
    with pytest.raises(ValueError, match="found 3 and 0"):
        solve(_hard(), 3, starts=0)
