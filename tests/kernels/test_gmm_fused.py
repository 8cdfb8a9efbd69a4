"""The compiled fits against the batched ones, and their own laws."""

from pathlib import Path

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.gmm import descent, fused
from kernels.gmm.descent import Method
from kernels.gmm.em import SigmaBounds, em_step_cells, sigma_bounds
from kernels.gmm.gridded import Gridded, kl_divergence
from kernels.gmm.mixture import Mixture, log_cell_masses
from kernels.gmm.reading import read_gridded
from kernels.gmm.start import quantile_start

METHODS: tuple[Method, ...] = ("em", "squarem", "scoring")


def problem(
    seed: int, cells: int = 60, batch: int = 5, scale: float = 1.0, truth: int = 6
) -> Gridded:
    """Mixtures of six on grids of their own, whose cells differ by a factor of four."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    m = Mixture(
        normal(batch, truth).log_softmax(-1),
        3 * normal(batch, truth),
        (0.5 * normal(batch, truth)).exp(),
    )
    widths = (0.35 * normal(batch, cells).clamp(-2, 2)).exp()
    edges = torch.nn.functional.pad(widths.cumsum(-1), (1, 0))
    edges = scale * (26 * edges / edges[:, -1:] - 13)
    m = m._replace(means=scale * m.means, sigmas=scale * m.sigmas)
    return read_gridded(log_cell_masses(m, edges).exp(), edges, "cell_mass")[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("components", [1, 3, 16])
@pytest.mark.parametrize("cells", [48, 512])
def test_compiled_and_batched_fits_are_the_same(
    method: Method, components: int, cells: int
) -> None:
    gridded = problem(components, cells)
    start = quantile_start(gridded, components)
    one = fused.descend(gridded, start, method, budget=8, tolerance=1e-8)
    other = descent.descend(gridded, start, method, budget=8, tolerance=1e-8)
    torch.testing.assert_close(one.kl, other.kl, rtol=0, atol=1e-11)
    assert torch.equal(one.evaluations, other.evaluations)
    assert torch.equal(one.accepted, other.accepted)
    for a, b in zip(one.mixture, other.mixture, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.kl, kl_divergence(gridded, one.mixture), rtol=0, atol=1e-13)


def test_em_is_the_step_of_the_reference() -> None:
    gridded = problem(1)
    m = start = quantile_start(gridded, 4)
    for _ in range(20):
        m = em_step_cells(m, gridded.masses, gridded.edges, sigma_bounds(gridded))
    found = fused.descend(gridded, start, "em", budget=21, tolerance=0.0)
    for a, b in zip(found.mixture, m, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    components=st.integers(1, 16),
    method=st.sampled_from(METHODS),
    floor=st.floats(1e-3, 0.1),
)
def test_nothing_ever_rises(seed: int, components: int, method: Method, floor: float) -> None:
    """From any start, bounds at work: k evaluations never end above fewer."""
    generator = torch.Generator().manual_seed(seed)
    gridded = problem(seed)
    draw = torch.rand(3, 5, components, generator=generator, dtype=torch.float64)
    start = Mixture((8 * draw[0]).log_softmax(-1), 40 * draw[1] - 20, (8 * draw[2] - 5).exp())
    bounds = SigmaBounds(*torch.tensor([[[26 * floor]], [[8.0]]], dtype=torch.float64))
    last = torch.full((5,), torch.inf, dtype=torch.float64)
    for budget in range(1, 14):
        found = fused.descend(gridded, start, method, budget, tolerance=0.0, bounds=bounds)
        assert (found.kl <= last + 1e-12).all()
        assert (found.mixture.sigmas >= bounds.low * (1 - 1e-12)).all()
        assert (found.mixture.sigmas <= bounds.high * (1 + 1e-12)).all()
        torch.testing.assert_close(
            found.mixture.log_weights.exp().sum(-1), torch.ones(5).double(), rtol=0, atol=1e-12
        )
        last = found.kl


def test_mass_beyond_the_reach_of_floats_is_found() -> None:
    """Every cell is hundreds of sigmas from every mean: linear masses are zero there."""
    gridded = problem(2)
    start = Mixture(*torch.tensor([[[0.5, 0.5]], [[80.0, 90.0]], [[0.1, 0.2]]]).double())
    start = Mixture(start.log_weights.log().expand(5, 2), *(t.expand(5, 2) for t in start[1:]))
    for method in METHODS:
        found = fused.descend(gridded, start, method, budget=60)
        assert (found.kl < 1).all()
    step = em_step_cells(start, gridded.masses, gridded.edges, sigma_bounds(gridded))
    found = fused.descend(gridded, start, "em", budget=2, tolerance=0.0)
    torch.testing.assert_close(found.mixture.means, step.means, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_knows_nothing_of_its_batch(method: Method) -> None:
    gridded = problem(4)
    spoiled = gridded._replace(masses=gridded.masses.clone())
    spoiled.masses[1], spoiled.masses[3, 0] = torch.nan, torch.inf
    start = quantile_start(gridded, 5)
    together = fused.descend(spoiled, start, method)
    assert together.kl.isnan().tolist() == [False, True, False, True, False]
    batched = descent.descend(spoiled, start, method, budget=3)
    assert batched.kl.isnan().tolist() == [False, True, False, True, False]
    for row in (0, 2, 4):
        rows = torch.tensor([row])
        alone = fused.descend(gridded.rows(rows), Mixture(*(t[rows] for t in start)), method)
        assert alone.kl[0] == together.kl[row]
        assert all(
            torch.equal(a[0], b[row]) for a, b in zip(alone.mixture, together.mixture, strict=True)
        )


@pytest.mark.parametrize("scale", [1e-12, 1e6])
@pytest.mark.parametrize("method", METHODS)
def test_units_change_nothing(method: Method, scale: float) -> None:
    one, other = problem(6), problem(6, scale=scale)
    found = [fused.descend(g, quantile_start(g, 5), method, budget=20) for g in (one, other)]
    torch.testing.assert_close(found[1].kl, found[0].kl, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        found[1].mixture.means / scale, found[0].mixture.means, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_mirrored_density_has_the_mirrored_fit(method: Method) -> None:
    gridded = problem(8)
    mirrored = gridded._replace(masses=gridded.masses.flip(-1), edges=-gridded.edges.flip(-1))
    start = quantile_start(gridded, 3)
    found = fused.descend(gridded, start, method, budget=12)
    other = fused.descend(mirrored, start._replace(means=-start.means), method, budget=12)
    torch.testing.assert_close(other.kl, found.kl, rtol=0, atol=1e-10)
    torch.testing.assert_close(other.mixture.means, -found.mixture.means, rtol=1e-5, atol=1e-5)


def test_scoring_finds_the_mixture_that_made_the_masses() -> None:
    """Quadratically, where EM has hardly begun."""
    truth = Mixture(*torch.tensor([[[0.3, 0.7]], [[-1.0, 1.0]], [[1.0, 1.5]]]).double())
    truth = truth._replace(log_weights=truth.log_weights.log())
    edges = torch.linspace(-16, 16, 129, dtype=torch.float64)
    gridded = read_gridded(log_cell_masses(truth, edges).exp(), edges, "cell_mass")[0]
    start = truth._replace(means=truth.means + 0.5, sigmas=1.3 * truth.sigmas)
    scoring = fused.descend(gridded, start, "scoring", budget=25, tolerance=0.0)
    em = fused.descend(gridded, start, "em", budget=1000, tolerance=0.0)
    assert scoring.kl < 1e-14
    assert em.kl > 1e-12
    torch.testing.assert_close(scoring.mixture.means, truth.means, rtol=0, atol=1e-5)


def test_what_is_not_compiled_is_refused() -> None:
    gridded = problem(0)
    start = quantile_start(gridded, 2)
    with pytest.raises(ValueError, match="'anderson'"):
        fused.descend(gridded, start, "anderson")
    with pytest.raises(ValueError, match="found 0"):
        fused.descend(gridded, start, budget=0)
    with pytest.raises(ValueError, match="found 0"):
        descent.descend(gridded, start, budget=0)


def test_compiled_code_is_kept_where_asked_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    one, other = (fused._entry(revision)._cache for revision in (1, 2))
    assert one.cache_path.startswith(str(tmp_path))
    # Of one file, but with keys that tell the sources apart.
    code = numba.core.registry.cpu_target.target_context.codegen()
    assert one._index_key((), code) != other._index_key((), code)
    # No place that can be written: a source that is not in an archive has none in this list.
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "ZipCacheLocator")
    assert isinstance(fused._entry(1)._cache, numba.core.caching.NullCache)
