"""Mixtures: their distribution to full precision in both tails, at any scale."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kernels.gmm.mixture import (
    Mixture,
    cdf,
    log_cell_masses,
    log_component_densities,
    log_density,
    log_interval_mass,
    moments,
    quantile,
    survival,
)


def random_mixtures(batch: int, components: int, seed: int, scale: float = 1.0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, components)
    draw = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return Mixture(draw[0].log_softmax(-1), 3 * scale * draw[1], scale * (0.7 * draw[2]).exp())


def _tail_reference(center: float, width: float) -> float:
    """Log mass from SciPy's own logarithms of the survival function."""
    near, far = stats.norm.logsf([center - width / 2, center + width / 2])
    return float(near + np.log(-np.expm1(far - near)))


@settings(max_examples=50, deadline=None)
@given(center=st.floats(0, 1000), width=st.floats(0.25, 100))
def test_mass_of_an_interval_keeps_its_digits_in_the_tail(center: float, width: float) -> None:
    found = log_interval_mass(*torch.tensor([[center], [width]], dtype=torch.float64))
    assert found.item() == pytest.approx(_tail_reference(center, width), rel=1e-12, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(center=st.floats(0, 30), width=st.floats(1e-9, 0.3))
def test_mass_of_a_narrow_interval_is_that_of_its_parts(center: float, width: float) -> None:
    width = width / max(1.0, center)
    c = torch.tensor([center], dtype=torch.float64)
    whole = log_interval_mass(c, torch.full_like(c, 4 * width))
    offsets = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64) * width
    parts = log_interval_mass((c + offsets).abs(), torch.full((4,), width, dtype=torch.float64))
    torch.testing.assert_close(parts.logsumexp(-1, keepdim=True), whole, rtol=1e-15, atol=4e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_masses_are_finite_everywhere(dtype: torch.dtype) -> None:
    center = torch.tensor([0, 1e-30, 0.1, 1, 10, 1e3, 1e6], dtype=dtype).repeat_interleave(6)
    width = torch.tensor([1e-20, 1e-6, 0.25, 1, 30, 1e5], dtype=dtype).repeat(7)
    center.requires_grad_(), width.requires_grad_()
    value = log_interval_mass(center, width)
    gradients = torch.autograd.grad(value.sum(), [center, width])
    assert all(tensor.isfinite().all() for tensor in (value, *gradients))


def test_gradient_of_the_mass_is_the_density_at_its_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(200, generator=generator, dtype=torch.float64) * 6
    width = torch.rand(200, generator=generator, dtype=torch.float64) * 3
    center.requires_grad_(), width.requires_grad_()
    assert torch.autograd.gradcheck(log_interval_mass, (center + 1e-3, width + 1e-3))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), components=st.integers(1, 16))
def test_cdf_is_monotone_and_the_masses_are_its_steps(seed: int, components: int) -> None:
    m = random_mixtures(3, components, seed)
    edges = torch.linspace(-40, 40, 400, dtype=torch.float64).expand(3, -1)
    below, above = cdf(m, edges), survival(m, edges)
    assert (below.diff() >= 0).all()
    assert below.min() >= 0
    assert below.max() <= 1
    torch.testing.assert_close(below + above, torch.ones_like(below), rtol=0, atol=1e-15)
    torch.testing.assert_close(log_cell_masses(m, edges).exp(), below.diff(), rtol=0, atol=1e-15)


def test_density_is_that_of_the_components() -> None:
    m = random_mixtures(4, 3, 1)
    z = torch.linspace(-5, 5, 11, dtype=torch.float64)
    parts = [
        math.exp(w) * stats.norm.pdf(z.numpy(), mu, sigma)
        for w, mu, sigma in zip(*(tensor[0].tolist() for tensor in m), strict=True)
    ]
    np.testing.assert_allclose(log_density(m, z)[0].exp(), sum(parts), rtol=1e-13)
    np.testing.assert_allclose(log_component_densities(m, z)[0].exp().T, parts, rtol=1e-13)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), unit=st.sampled_from([1e-12, 1.0, 1e6]))
def test_quantile_inverts_the_cdf_in_both_tails(seed: int, unit: float) -> None:
    m = random_mixtures(4, 5, seed, unit)
    p = torch.tensor([1e-300, 1e-12, 0.1, 0.5, 0.99865], dtype=torch.float64)
    z = quantile(m, p)
    torch.testing.assert_close(cdf(m, z), p.expand(4, -1), rtol=1e-9, atol=0)
    mirror = quantile(m._replace(means=-m.means), p)
    torch.testing.assert_close(survival(m, -mirror), p.expand(4, -1), rtol=1e-9, atol=0)


def test_quantile_has_the_gradient_of_the_implicit_function() -> None:
    m = random_mixtures(2, 3, 5)
    p = torch.tensor([0.01, 0.4, 0.999], dtype=torch.float64)
    leaves = tuple(tensor.requires_grad_() for tensor in m)
    assert torch.autograd.gradcheck(lambda *parts: quantile(Mixture(*parts), p), leaves)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e6])
def test_moments_are_those_of_samples_of_the_quantile_function(unit: float) -> None:
    m = random_mixtures(3, 4, 7, unit)
    p = (torch.arange(4_000, dtype=torch.float64) + 0.5) / 4_000
    z = quantile(m, p).numpy()
    found = moments(m)
    np.testing.assert_allclose(found.mean, z.mean(1), atol=1e-3 * unit)
    np.testing.assert_allclose(found.variance, z.var(1), rtol=1e-2)
    np.testing.assert_allclose(found.skewness, stats.skew(z, axis=1), atol=5e-2)
    np.testing.assert_allclose(found.kurtosis, stats.kurtosis(z, axis=1), atol=0.3)


def test_sorting_changes_the_order_alone() -> None:
    m = random_mixtures(5, 6, 3)
    z = torch.linspace(-9, 9, 50, dtype=torch.float64)
    assert (m.sort().means.diff() > 0).all()
    torch.testing.assert_close(log_density(m.sort(), z), log_density(m, z), rtol=1e-14, atol=0)
