r"""Half-plane Fourier coefficients of real fields on the periodic square, free of aliasing.

A real field :math:`(*, n, n)` is carried by its coefficients :math:`(*, m, n)`, rows
:math:`k_x = 0 \dots m - 1`, columns :math:`k_y` in FFT order, with :math:`m` from
:func:`carried_modes`. The other half of the plane is the complex conjugate. This layout, and not
that of ``rfft2``, keeps every transform on contiguous lines and touches no line that is zero: at
128 points it takes a quarter off the time of a step.
"""

import math

import torch
from torch import Tensor

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}

# Random flows are drawn on this grid whatever the solver's, so that a seed names one flow.
_REFERENCE_GRID = 64


def carried_modes(n: int) -> int:
    r"""Number :math:`m` of wavenumbers :math:`0 \le k < m` with :math:`3 k < n`.

    The product of two fields with such modes has no alias among them (Orszag's 2/3 rule).
    """
    return (n - 1) // 3 + 1


def wavenumbers(n: int) -> tuple[Tensor, Tensor]:
    """Integer wavenumbers (kx, ky) of the coefficients, as float64, each (m, n)."""
    m = carried_modes(n)
    kx = torch.arange(m, dtype=torch.float64).unsqueeze(1)
    ky = torch.fft.fftfreq(n, d=1 / n, dtype=torch.float64).round()
    return kx.expand(m, n), ky.expand(m, n)


def kept(n: int) -> Tensor:
    """One where a mode is carried, zero at the mean and in the columns beyond: float64 (m, n)."""
    kx, ky = wavenumbers(n)
    return ((ky.abs() < len(kx)) & (kx**2 + ky**2 > 0)).double()


def padded(coefficients: Tensor) -> Tensor:
    """Zeros (*, n, n / 2 + 1) for :func:`to_grid` to work in."""
    *batch, _, n = coefficients.shape
    return coefficients.new_zeros(*batch, n, n // 2 + 1)


def to_grid(coefficients: Tensor, work: Tensor) -> Tensor:
    """Real fields of coefficients.

    Args:
        coefficients: Coefficients, (*, m, n).
        work: What :func:`padded` made for this shape. It may be used again.

    Returns:
        The fields, (*, n, n).
    """
    lines = torch.fft.ifft(coefficients, norm="forward")
    work[..., : lines.shape[-2]].copy_(lines.mT)
    fields: Tensor = torch.fft.irfft(work, norm="forward")
    return fields


def to_modes(fields: Tensor) -> Tensor:
    """Coefficients (*, m, n) of real fields (*, n, n), times n^2. Nothing is set to zero in the
    columns beyond the carried modes."""
    lines = torch.fft.rfft(fields)[..., : carried_modes(fields.shape[-1])]
    coefficients: Tensor = torch.fft.fft(lines.mT)
    return coefficients


def regrid(coefficients: Tensor, n: int) -> Tensor:
    """The same fields on the cell centers of another grid.

    Args:
        coefficients: Coefficients, (*, m', n').
        n: Points of an axis of the new grid. Modes that it does not carry are dropped.

    Returns:
        Coefficients, (*, m, n), complex128.
    """
    *batch, m_old, n_old = coefficients.shape
    m = min(carried_modes(n), m_old)
    columns = [*range(m), *range(-m + 1, 0)]
    kx = torch.arange(m, dtype=torch.float64).unsqueeze(1)
    ky = torch.tensor(columns, dtype=torch.float64)
    # Coefficients refer to the first point, half a cell from the origin: move it.
    phase = (kx + ky) * (math.pi / n - math.pi / n_old)
    shift = torch.polar(torch.ones_like(phase), phase)
    result = torch.zeros(*batch, carried_modes(n), n, dtype=torch.complex128)
    result[..., :m, columns] = coefficients[..., :m, columns] * shift
    return result


def random_flow(seed: int, maximum_velocity: float) -> Tensor:
    r"""Vorticity of a random smooth flow without divergence.

    White noise, weighted so that the amplitude of the velocity is a log-normal density of the
    wavenumber with mode 4 and variance 1/4 (of :math:`\log k`).

    Args:
        seed: Names the flow, and nothing else does.
        maximum_velocity: Largest speed on the reference grid of 64 by 64.

    Returns:
        Coefficients on the reference grid, (22, 64), complex128.
    """
    n = _REFERENCE_GRID
    generator = torch.Generator().manual_seed(int(seed))
    noise = torch.randn(n, n, dtype=torch.float64, generator=generator)
    kx, ky = wavenumbers(n)
    k = (kx**2 + ky**2).sqrt().clamp(min=1)
    velocity_weight = kept(n) * _log_normal(k, mode=4.0, variance=0.25)
    vorticity = to_modes(noise) * velocity_weight * k
    velocity = 1j * torch.stack((ky, -kx)) / k**2 * vorticity
    speed = torch.linalg.vector_norm(to_grid(velocity, padded(velocity)), dim=0).max()
    flow: Tensor = vorticity * (maximum_velocity / speed)
    return flow


def _log_normal(k: Tensor, mode: float, variance: float) -> Tensor:
    """Log-normal density of the wavenumber, up to a factor."""
    log_k = k.log()
    return torch.exp(-((log_k - math.log(mode) - variance) ** 2) / (2 * variance) - log_k)
