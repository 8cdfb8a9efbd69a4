r"""Diagnostics of two-dimensional flow on the periodic square :math:`[0, 2\pi)^2`.

A velocity is a real tensor :math:`(*, 2, n, n)`: channel 0 is :math:`u` (along the last axis,
:math:`x`), channel 1 is :math:`v` (along the axis before it, :math:`y`). Length is in units in
which the square has side :math:`2\pi`, so wavenumbers are integers and derivatives are physical.
Derivatives are spectral; the Nyquist mode of an even grid has none and is dropped.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def coarsen(x: Tensor, factor: int) -> Tensor:
    r"""Mean over boxes of ``factor`` by ``factor`` cells.

    Args:
        x: Fields at cell centers, :math:`(*, n, n)`.
        factor: Cells of a box along each axis; it divides :math:`n`.

    Returns:
        Fields at the centers of the larger cells, :math:`(*, n / factor, n / factor)`.

    Raises:
        ValueError: ``factor`` does not divide both axes.
    """
    *batch, height, width = x.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"expected a factor of {height} and of {width}, found {factor}")
    boxes = x.reshape(*batch, height // factor, factor, width // factor, factor)
    return boxes.mean(dim=(-3, -1))


def vorticity(velocity: Tensor) -> Tensor:
    r"""Vorticity :math:`\omega = \partial_x v - \partial_y u`, :math:`(*, n, n)`.

    Args:
        velocity: Channels :math:`(u, v)`, :math:`(*, 2, n, n)`.
    """
    hat, kx, ky = _spectrum(velocity)
    hat_u, hat_v = hat.unbind(dim=-3)
    field: Tensor = torch.fft.irfft2(1j * (kx * hat_v - ky * hat_u), s=velocity.shape[-2:])
    return field


def divergence(velocity: Tensor) -> Tensor:
    r"""Divergence :math:`\partial_x u + \partial_y v`, :math:`(*, n, n)`.

    Args:
        velocity: Channels :math:`(u, v)`, :math:`(*, 2, n, n)`.
    """
    hat, kx, ky = _spectrum(velocity)
    hat_u, hat_v = hat.unbind(dim=-3)
    field: Tensor = torch.fft.irfft2(1j * (kx * hat_u + ky * hat_v), s=velocity.shape[-2:])
    return field


def kinetic_energy(velocity: Tensor) -> Tensor:
    r"""Kinetic energy per unit mass, :math:`\frac{1}{2} \langle u^2 + v^2 \rangle`.

    Averages run over space. The published trajectories of the Kolmogorov benchmark have .984 in
    this definition, after coarsening to 64 by 64: an rms of .99 in each component.

    Args:
        velocity: Channels :math:`(u, v)`, :math:`(*, 2, n, n)`.

    Returns:
        One value a flow, :math:`(*)`.
    """
    _check_velocity(velocity)
    return velocity.square().sum(dim=-3).mean(dim=(-2, -1)) / 2


def enstrophy(velocity: Tensor) -> Tensor:
    r"""Enstrophy :math:`\frac{1}{2} \langle \omega^2 \rangle`, averaged over space, :math:`(*)`.

    Args:
        velocity: Channels :math:`(u, v)`, :math:`(*, 2, n, n)`.
    """
    return vorticity(velocity).square().mean(dim=(-2, -1)) / 2


def energy_spectrum(velocity: Tensor) -> Tensor:
    r"""Isotropic spectrum of the kinetic energy.

    Shell :math:`k` holds the modes with :math:`k - 1/2 \le |\mathbf{k}| < k + 1/2`. All modes
    are counted, those in the corners of the square too, so that the shells sum to
    :func:`kinetic_energy` (Parseval).

    Args:
        velocity: Channels :math:`(u, v)`, :math:`(*, 2, n, n)`.

    Returns:
        Energy in the shells :math:`k = 0, 1, \dots`, :math:`(*, K)`.
    """
    _check_velocity(velocity)
    n = velocity.shape[-1]
    power: Tensor = torch.fft.fft2(velocity, norm="forward").abs().square().sum(dim=-3) / 2
    k = torch.fft.fftfreq(n, d=1 / n, dtype=torch.float64, device=velocity.device)
    shell = torch.floor(torch.hypot(k.unsqueeze(1), k) + 0.5).long().flatten()
    spectrum = power.new_zeros(*power.shape[:-2], int(shell.max()) + 1)
    return spectrum.index_add_(-1, shell, power.flatten(-2))


def time_correlation(x: Tensor, lags: Sequence[int]) -> Tensor:
    r"""Correlation of a trajectory with itself some frames later.

    .. math::
        C(\ell) = \frac{\sum_t \langle x_t, x_{t + \ell} \rangle}
        {\sqrt{\sum_t \|x_t\|^2 \, \sum_t \|x_{t + \ell}\|^2}}

    Sums run over the :math:`T - \ell` pairs of frames; no mean is taken off.

    Args:
        x: Trajectories, :math:`(*, T, C, H, W)`.
        lags: Lags in frames, each from 0 to :math:`T - 1`.

    Returns:
        One row a trajectory, one column a lag, :math:`(*, \text{lags})`.

    Raises:
        ValueError: A lag is negative or reaches beyond the trajectory.
    """
    frames = x.shape[-4]
    flat = x.flatten(-3)
    columns = []
    for lag in lags:
        if not 0 <= lag < frames:
            raise ValueError(f"expected lags from 0 to {frames - 1}, found {lag}")
        early, late = flat[..., : frames - lag, :], flat[..., lag:, :]
        product = (early * late).sum(dim=(-2, -1))
        norms = early.square().sum(dim=(-2, -1)) * late.square().sum(dim=(-2, -1))
        columns.append(product / norms.sqrt())
    return torch.stack(columns, dim=-1)


def space_correlation(x: Tensor) -> Tensor:
    r"""Two-point correlation as a function of the separation.

    .. math::
        C(r) = \frac{\sum_s x(s) \, x(s + r)}{\sum_s x(s)^2}

    summed over all points of the periodic grid; no mean is taken off.

    Args:
        x: Fields, :math:`(*, H, W)`.

    Returns:
        Correlations, :math:`(*, H, W)`: ``[..., j, i]`` belongs to a separation of :math:`i` cells
        along the last axis and :math:`j` along the one before; ``[..., 0, 0]`` is one.
    """
    hat = torch.fft.rfft2(x)
    covariance: Tensor = torch.fft.irfft2(hat.abs().square(), s=x.shape[-2:])
    return covariance / covariance[..., :1, :1]


def _spectrum(velocity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Half-plane coefficients and the integer wavenumbers (kx, ky), zero at Nyquist."""
    _check_velocity(velocity)
    n = velocity.shape[-1]
    k = torch.fft.fftfreq(n, d=1 / n, dtype=velocity.dtype, device=velocity.device)
    k = torch.where(2 * k.abs() == n, 0.0, k)
    return torch.fft.rfft2(velocity), k[: n // 2 + 1], k.unsqueeze(1)


def _check_velocity(velocity: Tensor) -> None:
    shape = tuple(velocity.shape)
    if len(shape) < 3 or shape[-3] != 2 or shape[-2] != shape[-1]:
        raise ValueError(f"expected a velocity (*, 2, n, n), found {shape}")
    if not math.prod(shape):
        raise ValueError(f"expected at least one flow, found {shape}")
