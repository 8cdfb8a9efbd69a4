"""Optimal interpolation against the dense closed form, and at its limits."""

import pytest
import torch
from torch import Tensor

from kernels.interpolation import optimal_interpolation
from kernels.wiener import window_spectrum

torch.set_num_threads(1)

CHANNELS, ROWS, COLUMNS = 3, 4, 6


def field_statistics(n: int = 40) -> tuple[Tensor, Tensor]:
    """Mean and spectrum of correlated random fields."""
    generator = torch.Generator().manual_seed(5)
    white = torch.randn(n, CHANNELS, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    smooth = white + 0.7 * white.roll(1, -1) + 0.5 * white.roll(1, -2) + 0.4 * white.roll(1, 1)
    profile = torch.arange(ROWS, dtype=torch.float64).reshape(1, 1, ROWS, 1)
    return window_spectrum(smooth + profile)


def covariance(spectrum: Tensor) -> Tensor:
    """S as a dense matrix over all values of a field, column by column from its definition.

    By hand, with the full complex transform: the modes that a real transform leaves out are the
    conjugates of the ones it stores.
    """
    full = torch.zeros(ROWS, COLUMNS, CHANNELS, CHANNELS, dtype=torch.complex128)
    stored = COLUMNS // 2 + 1
    full[:, :stored] = spectrum
    for row in range(ROWS):
        for column in range(stored, COLUMNS):
            full[row, column] = spectrum[-row % ROWS, COLUMNS - column].conj()
    columns = []
    for unit in torch.eye(CHANNELS * ROWS * COLUMNS, dtype=torch.float64):
        modes = torch.fft.fft2(unit.reshape(CHANNELS, ROWS, COLUMNS).to(torch.complex128))
        product = torch.einsum("yxab,byx->ayx", full, modes)
        columns.append(torch.fft.ifft2(product).real.flatten())
    return torch.stack(columns, dim=1)


def sparse(x: Tensor) -> Tensor:
    """Every other channel, row and third column, mixed by weights."""
    weight = torch.linspace(0.5, 1.5, 2, dtype=torch.float64).to(x.dtype)
    return x[..., ::2, 1::2, ::3] * weight


def everything(x: Tensor) -> Tensor:
    return x.clone()


def a_truth() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(CHANNELS, ROWS, COLUMNS, generator=generator, dtype=torch.float64) * 2


@pytest.mark.parametrize("std", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("observe", [sparse, everything])
def test_it_is_the_closed_form(observe: object, std: float) -> None:
    assert callable(observe)
    mean, spectrum = field_statistics()
    S, y = covariance(spectrum), observe(a_truth())
    units = torch.eye(S.shape[0], dtype=torch.float64).reshape(-1, CHANNELS, ROWS, COLUMNS)
    A = torch.stack([observe(unit).flatten() for unit in units], dim=1)
    m = mean.expand(CHANNELS, ROWS, COLUMNS).flatten()
    inner = A @ S @ A.T + std**2 * torch.eye(len(A), dtype=torch.float64)
    wanted = m + S @ A.T @ torch.linalg.solve(inner, y.flatten() - A @ m)
    found = optimal_interpolation(observe, y, mean, spectrum, std, tolerance=1e-13)
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-9, atol=1e-9)


def test_the_dense_covariance_is_one() -> None:
    S = covariance(field_statistics()[1])
    torch.testing.assert_close(S, S.T)
    assert float(torch.linalg.eigvalsh(S).min()) > 0


def test_without_information_it_is_the_mean() -> None:
    mean, spectrum = field_statistics()
    found = optimal_interpolation(sparse, sparse(a_truth()), mean, spectrum, std=1e9)
    torch.testing.assert_close(found, mean.expand_as(found))


def test_exact_observations_of_everything_are_returned() -> None:
    mean, spectrum = field_statistics()
    truth = a_truth()
    found = optimal_interpolation(everything, truth, mean, spectrum, std=1e-9, tolerance=1e-13)
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-8)


def test_exact_observations_of_a_part_are_kept() -> None:
    mean, spectrum = field_statistics()
    y = sparse(a_truth())
    found = optimal_interpolation(sparse, y, mean, spectrum, std=0.0, tolerance=1e-13)
    torch.testing.assert_close(sparse(found), y, rtol=1e-8, atol=1e-8)


def test_what_the_mean_explains_changes_nothing() -> None:
    mean, spectrum = field_statistics()
    expected = mean.expand(CHANNELS, ROWS, COLUMNS)
    found = optimal_interpolation(sparse, sparse(expected), mean, spectrum, std=0.1)
    assert torch.equal(found, expected)


def test_a_caller_without_gradients_gets_the_same() -> None:
    mean, spectrum = field_statistics()
    y = sparse(a_truth())
    with torch.no_grad():
        found = optimal_interpolation(sparse, y, mean, spectrum, std=0.1)
    assert torch.equal(found, optimal_interpolation(sparse, y, mean, spectrum, std=0.1))
    assert not found.requires_grad


def test_it_beats_every_other_linear_estimate_that_is_near() -> None:
    """The gradient of the expected error vanishes: E = tr(S) - 2 tr(K A S) + tr(K R K^T)."""
    mean, spectrum = field_statistics()
    S, std = covariance(spectrum), 0.3
    units = torch.eye(S.shape[0], dtype=torch.float64).reshape(-1, CHANNELS, ROWS, COLUMNS)
    A = torch.stack([sparse(unit).flatten() for unit in units], dim=1)
    R = A @ S @ A.T + std**2 * torch.eye(len(A), dtype=torch.float64)
    shape = sparse(a_truth()).shape
    zero = torch.zeros_like(mean)
    basis = torch.eye(len(A), dtype=torch.float64).reshape(-1, *shape)
    gain = torch.stack(
        [
            optimal_interpolation(sparse, e, zero, spectrum, std, tolerance=1e-13).flatten()
            for e in basis
        ],
        dim=1,
    )
    torch.testing.assert_close(gain @ R, S @ A.T, rtol=1e-9, atol=1e-9)
