"""The best linear denoiser of a homogeneous field, and score networks that start from it."""

from typing import cast

import torch
from torch import Tensor, nn

from kernels.score import ScoreUNet
from kernels.sde import VPSDE, per_sample

#: Windows that are transformed at once.
_SPECTRUM_CHUNK = 128


def window_spectrum(windows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean profile and cross-spectral matrices of periodic multi-channel fields.

    .. math:: S(k) = \mathbb E\,[\hat x(k)\, \hat x(k)^\dagger], \qquad
              \hat x = \mathrm{FFT}(x - m)/\sqrt{n_y n_x}

    so that white noise of unit variance has :math:`S(k) = I`. The field is treated as
    homogeneous. A flow forced by :math:`\sin 4y` is so only under shifts by a quarter of the
    domain in y; its mean profile m(y) is taken out, and correlations between different
    wavenumbers are left out, which is the usual approximation.

    Args:
        windows: Fields, :math:`(N, C, n_y, n_x)`, with N at least C.

    Returns:
        The mean, :math:`(C, n_y, 1)`, and S, :math:`(n_y, n_x/2 + 1, C, C)`, complex Hermitian,
        both in double precision.

    Raises:
        ValueError: Fewer windows than channels: S would be singular.
    """
    n, channels = windows.shape[:2]
    if n < channels:
        raise ValueError(
            f"a spectrum of {channels} channels needs at least {channels} windows, found {n}"
        )
    mean = windows.mean(dim=(0, 3), dtype=torch.float64).unsqueeze(-1)
    # A few windows at a time: all of them at once need gigabytes at 64 channels and 64 cells.
    spectrum = torch.zeros(())
    for part in torch.split(windows, _SPECTRUM_CHUNK):
        modes = torch.fft.rfft2(part.double() - mean, norm="ortho").permute(2, 3, 1, 0)
        spectrum = spectrum + modes @ modes.mH
    return mean, spectrum / n


def _multiplicity(values: Tensor, nx: int) -> Tensor:
    """Weight of each stored mode (rows, nx/2 + 1, C) in an average over all of them."""
    weight = torch.full_like(values, 2.0)
    weight[:, 0] = 1.0
    if nx % 2 == 0:
        weight[:, -1] = 1.0
    return weight / weight.sum()


def _unexplained(values: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Posterior variance of the noise along eigenvectors of S: signal / (signal + noise)."""
    signal = mu.square() * values
    return signal / (signal + sigma.square())


def wiener_floor(spectrum: Tensor, sde: VPSDE, n: int = 1024, nx: int | None = None) -> float:
    r"""Noise MSE of the best linear denoiser, averaged over :math:`t \sim U(0, 1)`.

    .. math:: \int_0^1 \frac1D \sum_{k,c}
              \frac{\mu^2 \lambda_c(k)}{\mu^2 \lambda_c(k) + \sigma^2}\, dt

    A trained network must end below it.

    Args:
        spectrum: S of :func:`window_spectrum`.
        sde: Perturbation kernel.
        n: Points of the midpoint rule in t.
        nx: Columns of the field; the even number that fits the spectrum if not given.
    """
    values = torch.linalg.eigvalsh(spectrum).clamp(min=0)
    weight = _multiplicity(values, 2 * (spectrum.shape[1] - 1) if nx is None else nx)
    times = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    total = sum(
        (weight * _unexplained(values, mu, sigma)).sum()
        for mu, sigma in zip(sde.mu(times), sde.sigma(times), strict=True)
    )
    return float(total) / n


class WienerDenoiser(nn.Module):
    r"""Linear minimum-mean-square estimate of the noise in :math:`x_t`.

    .. math:: \hat\epsilon = \sigma\,(\mu^2 S + \sigma^2 I)^{-1} (x_t - \mu\, m)

    applied wavenumber by wavenumber. S is diagonalized once, so that each sample may have a time
    of its own at the price of two small matrix products and two FFTs.

    Args:
        mean: Mean profile, :math:`(C, n_y, 1)`.
        spectrum: Cross-spectral matrices, :math:`(n_y, n_x/2 + 1, C, C)`.
        sde: Perturbation kernel.

    To make one that a state dict is then loaded into, give zeros of the right shapes.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor
    weight: Tensor

    def __init__(self, mean: Tensor, spectrum: Tensor, sde: VPSDE | None = None) -> None:
        super().__init__()
        self.sde = VPSDE() if sde is None else sde
        values, vectors = torch.linalg.eigh(spectrum.to(torch.complex128))
        dtype = torch.get_default_dtype()
        weight = _multiplicity(values, 2 * (spectrum.shape[1] - 1))
        self.register_buffer("mean", mean.to(dtype))
        self.register_buffer("values", values.clamp(min=0).to(dtype))
        # As pairs of reals: Module.to(float64) would drop the imaginary part of a complex buffer.
        self.register_buffer("vectors", torch.view_as_real(vectors).to(dtype))
        self.register_buffer("weight", weight.to(dtype))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise estimate of noisy fields x (B, C, ny, nx) at times t, (B,) or a scalar.

        Raises:
            ValueError: The fields have an odd number of columns.
        """
        if x.shape[-1] % 2:
            raise ValueError(f"the Wiener denoiser needs an even number of columns: {x.shape}")
        with torch.autocast(x.device.type, enabled=False):
            return self._estimate(x.to(self.mean.dtype), t.to(self.mean.dtype)).to(x.dtype)

    def _estimate(self, x: Tensor, t: Tensor) -> Tensor:
        mu, sigma = (a.expand(len(x)) for a in (self.sde.mu(t), self.sde.sigma(t)))
        centered = x - per_sample(mu, x) * self.mean
        modes = torch.fft.rfft2(centered, norm="ortho").permute(2, 3, 1, 0)
        basis = torch.view_as_complex(self.vectors)
        gain = sigma / (self.values.unsqueeze(-1) * mu.square() + sigma.square())
        estimate = (basis @ (gain * (basis.mH @ modes))).permute(3, 2, 0, 1)
        noise: Tensor = torch.fft.irfft2(estimate, s=x.shape[-2:], norm="ortho")
        return noise

    def residual_std(self, t: Tensor) -> Tensor:
        """Root-mean-square error of the estimate at times t (B,), (B,), exact if S is."""
        t = t.to(self.mean.dtype).reshape(-1, 1, 1, 1)
        unexplained = _unexplained(self.values, self.sde.mu(t), self.sde.sigma(t))
        return (self.weight * unexplained).sum(dim=(1, 2, 3)).sqrt()


class WienerScore(nn.Module):
    r"""A score network that learns only what the linear denoiser cannot know.

    .. math:: \epsilon_\phi(x_t, t) = \hat\epsilon + \rho(t)\, f_\phi(x_t, t, \hat x), \qquad
              \hat x = (x_t - \sigma \hat\epsilon) / \mu

    with :math:`\rho(t)` the root-mean-square error of the linear estimate
    :math:`\hat\epsilon(x_t, t)`, so that the target of the network has unit variance at every t.
    It is told the estimate as a denoised state, from which it learns faster than from the noise.
    The last convolution starts at zero: before the first step the loss is the Wiener floor.

    Args:
        kernel: Network with as many context channels as the fields have channels. Its last
            convolution is zeroed here.
        denoiser: The linear estimate; not trained.
    """

    def __init__(self, kernel: ScoreUNet, denoiser: WienerDenoiser) -> None:
        super().__init__()
        self.kernel = kernel
        self.denoiser = denoiser
        kernel.zero_output()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise estimate; x is (B, C, ny, nx), t is (B,) or a scalar."""
        t = t.expand(len(x))
        linear = self.denoiser(x, t)
        mu, sigma = (per_sample(f(t), x) for f in (self.denoiser.sde.mu, self.denoiser.sde.sigma))
        rest = self.kernel(x, t, (x - sigma * linear) / mu)
        return cast(Tensor, linear + per_sample(self.denoiser.residual_std(t), x) * rest)
