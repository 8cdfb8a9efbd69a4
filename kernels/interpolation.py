"""Optimal interpolation: the posterior mean of a homogeneous Gaussian field."""

from collections.abc import Callable

import torch
from torch import Tensor

LinearMap = Callable[[Tensor], Tensor]


def optimal_interpolation(
    observe: LinearMap,
    y: Tensor,
    mean: Tensor,
    spectrum: Tensor,
    std: float,
    iterations: int = 1000,
    tolerance: float = 1e-6,
) -> Tensor:
    r"""Best linear unbiased estimate of a field from partial, noisy observations.

    .. math:: \hat x = m + S A^\top \left(A S A^\top + s^2 I\right)^{-1} (y - A m)

    S is diagonal over wavenumbers, and is applied by FFT; the system is solved in the space of
    the observations by conjugate gradients. It is what a score has to beat: it knows the mean and
    the covariance of the flow, and nothing of its dynamics beyond.

    Args:
        observe: A, linear, of fields :math:`(C, n_y, n_x)`.
        y: Observations, the shape of ``observe(x)``.
        mean: m, broadcasts against :math:`(C, n_y, n_x)`.
        spectrum: Cross-spectral matrices, :math:`(n_y, n_x/2 + 1, C, C)`, normalized so that white
            noise has the identity.
        std: Standard deviation s of the observation noise.
        iterations: Most iterations.
        tolerance: Relative residual at which they end.

    Returns:
        The estimate, :math:`(C, n_y, n_x)`, in the precision of the spectrum.

    References:
        Gandin, *Objective Analysis of Meteorological Fields*, 1963.
    """
    dtype = spectrum.real.dtype
    rows, columns = spectrum.shape[0], 2 * (spectrum.shape[1] - 1)
    mean = mean.to(dtype).expand(-1, rows, columns)
    with torch.enable_grad():  # the caller may have turned it off
        template = torch.zeros_like(mean).requires_grad_()
        observed = observe(template)

    def adjoint(residual: Tensor) -> Tensor:
        (field,) = torch.autograd.grad(observed, template, residual, retain_graph=True)
        return field

    def system(residual: Tensor) -> Tensor:
        return observe(_apply(spectrum, adjoint(residual))) + std**2 * residual

    weights = _conjugate_gradients(system, y.to(dtype) - observe(mean), iterations, tolerance)
    return mean + _apply(spectrum, adjoint(weights))


def _apply(spectrum: Tensor, field: Tensor) -> Tensor:
    """S applied to a field (C, ny, nx)."""
    modes = torch.fft.rfft2(field, norm="ortho").permute(1, 2, 0).unsqueeze(-1)
    product = (spectrum @ modes).squeeze(-1).permute(2, 0, 1)
    result: Tensor = torch.fft.irfft2(product, s=field.shape[-2:], norm="ortho")
    return result


def _conjugate_gradients(
    system: LinearMap, right: Tensor, iterations: int, tolerance: float
) -> Tensor:
    x, residual = torch.zeros_like(right), right.clone()
    direction, power = residual.clone(), residual.square().sum()
    enough = tolerance**2 * power
    for _ in range(iterations):
        if power <= enough:
            break
        image = system(direction)
        step = power / (direction * image).sum()
        x, residual = x + step * direction, residual - step * image
        previous, power = power, residual.square().sum()
        direction = residual + power / previous * direction
    return x
