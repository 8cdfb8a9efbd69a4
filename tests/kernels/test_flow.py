import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.flow import (
    coarsen,
    divergence,
    energy_spectrum,
    enstrophy,
    kinetic_energy,
    space_correlation,
    time_correlation,
    vorticity,
)

wavenumber = st.integers(min_value=-7, max_value=7)


def cell_centers(n: int) -> tuple[Tensor, Tensor]:
    """Coordinates (x, y) of an n by n grid: x along the last axis, y along the one before."""
    axis = 2 * math.pi / n * (torch.arange(n, dtype=torch.float64) + 0.5)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def random_velocity(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(a=wavenumber, b=wavenumber)
def test_derivatives_are_physical_and_signed_as_documented(a: int, b: int) -> None:
    x, y = cell_centers(16)
    wave = a * x + b * y
    velocity = torch.stack((wave.sin(), (wave + 0.3).cos()))
    d_u, d_v = wave.cos(), -(wave + 0.3).sin()
    torch.testing.assert_close(vorticity(velocity), a * d_v - b * d_u, rtol=0, atol=1e-12)
    torch.testing.assert_close(divergence(velocity), a * d_u + b * d_v, rtol=0, atol=1e-12)


def test_taylor_green_vortex() -> None:
    x, y = cell_centers(32)
    velocity = torch.stack((x.cos() * y.sin(), -x.sin() * y.cos()))
    torch.testing.assert_close(vorticity(velocity), -2 * x.cos() * y.cos())
    torch.testing.assert_close(divergence(velocity).abs().max().item(), 0.0, rtol=0, atol=1e-13)
    assert kinetic_energy(velocity).item() == pytest.approx(1 / 4)
    assert enstrophy(velocity).item() == pytest.approx(1 / 2)


@pytest.mark.parametrize("n", [8, 9, 16, 21])
def test_nyquist_mode_has_no_derivative(n: int) -> None:
    sign = (-1.0) ** torch.arange(n, dtype=torch.float64)
    velocity = torch.stack((sign.unsqueeze(1).expand(n, n), sign.expand(n, n)))
    largest = torch.maximum(vorticity(velocity).abs().max(), divergence(velocity).abs().max())
    assert (largest < 1e-12).item() == (n % 2 == 0)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(2, 20), batch=st.integers(1, 3))
def test_spectrum_sums_to_kinetic_energy(seed: int, n: int, batch: int) -> None:
    velocity = random_velocity(seed, batch, 2, n, n)
    spectrum = energy_spectrum(velocity)
    assert (spectrum >= 0).all()
    torch.testing.assert_close(spectrum.sum(dim=-1), kinetic_energy(velocity))


@settings(deadline=None)
@given(a=wavenumber, b=wavenumber)
def test_spectrum_puts_a_wave_into_its_shell(a: int, b: int) -> None:
    x, y = cell_centers(16)
    wave = (a * x + b * y + 0.4).cos()
    spectrum = energy_spectrum(torch.stack((wave, 2 * wave)))
    shell = math.floor(math.hypot(a, b) + 0.5)
    assert spectrum[shell].item() == pytest.approx(spectrum.sum().item())


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_coarsening_composes_and_keeps_the_mean(seed: int) -> None:
    x = random_velocity(seed, 2, 3, 24, 24)
    torch.testing.assert_close(coarsen(coarsen(x, 2), 3), coarsen(x, 6))
    torch.testing.assert_close(coarsen(x, 24)[..., 0, 0], x.mean(dim=(-2, -1)))
    assert torch.equal(coarsen(x, 1), x)


def test_coarsening_lands_on_cell_centers() -> None:
    for fine, coarse in zip(cell_centers(32), cell_centers(8), strict=True):
        torch.testing.assert_close(coarsen(fine, 4), coarse)


def test_time_correlation_equals_the_explicit_sum() -> None:
    x = random_velocity(0, 3, 7, 2, 4, 4)
    found = time_correlation(x, (0, 2, 6))
    for i in range(3):
        for column, lag in enumerate((0, 2, 6)):
            pairs = [(x[i, t], x[i, t + lag]) for t in range(7 - lag)]
            product = sum((p * q).sum().item() for p, q in pairs)
            squares = [sum((f**2).sum().item() for f in side) for side in zip(*pairs, strict=True)]
            expected = product / math.sqrt(squares[0] * squares[1])
            assert found[i, column].item() == pytest.approx(expected)
    torch.testing.assert_close(found[:, 0], torch.ones(3, dtype=torch.float64))


def test_time_correlation_of_a_decaying_alternating_signal() -> None:
    factor = (-0.5) ** torch.arange(6, dtype=torch.float64).reshape(6, 1, 1, 1)
    trajectory = factor * random_velocity(1, 2, 4, 4)
    expected = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(time_correlation(trajectory, (0, 1, 2)), expected)


def test_space_correlation_equals_the_explicit_sum() -> None:
    x = random_velocity(2, 2, 6, 5)
    found = space_correlation(x)
    for j in range(6):
        for i in range(5):
            shifted = x.roll((-j, -i), dims=(-2, -1))
            expected = (x * shifted).sum(dim=(-2, -1)) / x.square().sum(dim=(-2, -1))
            torch.testing.assert_close(found[:, j, i], expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coarsen(torch.zeros(6, 6), 4), "expected a factor of 6"),
        (lambda: coarsen(torch.zeros(6, 6), 0), "found 0"),
        (lambda: vorticity(torch.zeros(3, 4, 4)), r"expected a velocity .* found \(3, 4, 4\)"),
        (lambda: energy_spectrum(torch.zeros(2, 4, 6)), r"found \(2, 4, 6\)"),
        (lambda: kinetic_energy(torch.zeros(0, 2, 4, 4)), "at least one flow"),
        (lambda: time_correlation(torch.zeros(4, 2, 4, 4), [4]), "lags from 0 to 3, found 4"),
        (lambda: time_correlation(torch.zeros(4, 2, 4, 4), [-1]), "found -1"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
