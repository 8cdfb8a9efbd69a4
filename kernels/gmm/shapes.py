r"""Exact distribution functions of the one-dimensional shapes that fitters are tried on.

A shape holds one set of parameters a row, :math:`(B)` or :math:`(B, C)`, is centered near zero and
about one wide. All its functions take points :math:`(B, M)` in float64, row by row.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_TWO_PI = 2 * math.pi
_NODES = 48
"""Of a quadrature: for correlations up to 0.95 its error is below 1e-13 (a test compares)."""


class Shape(Protocol):
    """A batch of continuous distributions in their own coordinates."""

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function at x, (B, M), to 1e-12."""

    def pdf(self, x: Tensor) -> Tensor:
        """Density at x, (B, M)."""

    @property
    def narrowest(self) -> Tensor:
        """Width of the sharpest feature that a grid should resolve, (B)."""


@dataclass(frozen=True)
class GaussianSum:
    """A mixture of Gaussians; weights, means and sigmas (B, C)."""

    weights: Tensor
    means: Tensor
    sigmas: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        return (self.weights[:, None] * _below(self._standard(x))).sum(dim=-1)

    def pdf(self, x: Tensor) -> Tensor:
        heights = (self.weights / self.sigmas)[:, None]
        return (heights * _phi(self._standard(x))).sum(dim=-1)

    @property
    def narrowest(self) -> Tensor:
        return self.sigmas.where(self.weights > 0, math.inf).amin(dim=-1)

    def _standard(self, x: Tensor) -> Tensor:
        return (x[..., None] - self.means[:, None]) / self.sigmas[:, None]


@dataclass(frozen=True)
class MaximumOfPair:
    r"""Maximum of two correlated Gaussians; means and sigmas (B, 2), correlation rho (B).

    .. math::
        F(x) = \Phi_2(x_1, x_2; \rho), \qquad
        f(x) = \sum_{i} \frac{\phi(x_i)}{\sigma_i}
            \Phi\Bigl(\frac{x_{j} - \rho x_i}{\sqrt{1-\rho^2}}\Bigr), \quad
        x_i = \frac{x - \mu_i}{\sigma_i},\ j \ne i

    References:
        Nadarajah & Kotz, Exact distribution of the max/min of two Gaussian random variables,
        IEEE Transactions on VLSI Systems 16 (2008), 210-212.
    """

    means: Tensor
    sigmas: Tensor
    rho: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        return bivariate_normal_cdf(*self._standard(x), self.rho[:, None])

    def pdf(self, x: Tensor) -> Tensor:
        first, second = self._standard(x)
        rho = self.rho[:, None]
        rest = (1 - rho.square()).sqrt()
        one = _phi(first) * _below((second - rho * first) / rest)
        two = _phi(second) * _below((first - rho * second) / rest)
        return one / self.sigmas[:, :1] + two / self.sigmas[:, 1:]

    @property
    def narrowest(self) -> Tensor:
        # The difference of the two changes over this width: the kink where the lead changes hands.
        between = self.sigmas.square().sum(dim=1) - 2 * self.rho * self.sigmas.prod(dim=1)
        return torch.minimum(self.sigmas.amin(dim=1), between.sqrt())

    def _standard(self, x: Tensor) -> tuple[Tensor, Tensor]:
        standard = (x[..., None] - self.means[:, None]) / self.sigmas[:, None]
        return standard[..., 0], standard[..., 1]


@dataclass(frozen=True)
class MaximumOfSeveral:
    r"""Maximum of C Gaussians with one common factor; means and sigmas (B, C), rho (B) in [0, .6].

    .. math::
        F(x) = \int \phi(c) \prod_i \Phi\Bigl(\frac{x_i - \sqrt\rho\, c}{\sqrt{1-\rho}}\Bigr) dc

    by Gauss-Hermite quadrature; any two of the Gaussians have correlation rho.
    """

    means: Tensor
    sigmas: Tensor
    rho: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        return self._product(x)[0]

    def pdf(self, x: Tensor) -> Tensor:
        return self._product(x)[1]

    @property
    def narrowest(self) -> Tensor:
        return self.sigmas.amin(dim=1) * (1 - self.rho).sqrt()

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cdf, pdf = torch.zeros_like(x), torch.zeros_like(x)
        common, rest = self.rho.sqrt()[:, None, None], (1 - self.rho).sqrt()[:, None, None]
        standard = (x[..., None] - self.means[:, None]) / self.sigmas[:, None]
        for node, weight in zip(*_hermite(), strict=True):  # one at a time: (B, M, C) is enough
            u = (standard - common * node) / rest
            below = _below(u)
            product = below.prod(dim=-1)
            rates = _phi(u) / (below.clamp_min(1e-300) * self.sigmas[:, None] * rest)
            cdf += weight * product
            pdf += weight * product * rates.sum(dim=-1)
        return cdf, pdf


@dataclass(frozen=True)
class SkewNormal:
    r"""Skew normal of shape alpha (B): :math:`F(x) = 2 \Phi_2(x, 0; -\alpha/\sqrt{1+\alpha^2})`.

    References:
        Azzalini, A class of distributions which includes the normal ones, Scand. J. Statist. 12
        (1985), 171-178.
    """

    alpha: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        delta = (self.alpha / (1 + self.alpha.square()).sqrt())[:, None]
        return 2 * bivariate_normal_cdf(x, torch.zeros_like(x), -delta)

    def pdf(self, x: Tensor) -> Tensor:
        return 2 * _phi(x) * _below(self.alpha[:, None] * x)

    @property
    def narrowest(self) -> Tensor:
        return 1 / (1 + self.alpha.square()).sqrt()


@dataclass(frozen=True)
class StudentT:
    """Student's t of whole degrees of freedom (B), at least 1.

    References:
        Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """

    degrees: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        degrees = self.degrees[:, None]
        odd = degrees.remainder(2)
        theta = torch.atan(x / degrees.sqrt())
        squared, power, series = theta.cos().square(), torch.ones_like(x), torch.zeros_like(x)
        for i in range(int(self.degrees.max()) // 2):
            if i:
                power = power * squared * (2 * i - 1 + odd) / (2 * i + odd)
            series = series + power.where(2 * i <= degrees - 2 - odd, 0.0)
        series = series * theta.sin()
        inside = torch.where(odd == 1, (theta + series * theta.cos()) * 2 / math.pi, series)
        return 0.5 + 0.5 * inside

    def pdf(self, x: Tensor) -> Tensor:
        degrees = self.degrees[:, None]
        half = degrees / 2
        height = torch.exp(torch.lgamma(half + 0.5) - torch.lgamma(half))
        return height / (math.pi * degrees).sqrt() * (1 + x.square() / degrees) ** (-half - 0.5)

    @property
    def narrowest(self) -> Tensor:
        return torch.ones_like(self.degrees)


@dataclass(frozen=True)
class LogNormal:
    r"""The law of :math:`(e^{sZ} - 1)/s` with Z standard normal and s (B) > 0: median zero."""

    s: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        return _below(self._normal(x))

    def pdf(self, x: Tensor) -> Tensor:
        inside = 1 + self.s[:, None] * x
        return torch.where(inside > 0, _phi(self._normal(x)) / inside.clamp_min(1e-300), 0.0)

    @property
    def narrowest(self) -> Tensor:
        return torch.exp(-self.s.square())  # the width about the mode

    def _normal(self, x: Tensor) -> Tensor:
        s = self.s[:, None]
        return torch.log1p((s * x).clamp_min(-1.0)) / s


@dataclass(frozen=True)
class Gamma:
    r"""The law of :math:`(G - k)/\sqrt k` with G of the gamma distribution of shape k (B) > 1."""

    k: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        result: Tensor = torch.special.gammainc(
            self.k[:, None].expand_as(x), self._g(x).clamp_min(0.0)
        )
        return result

    def pdf(self, x: Tensor) -> Tensor:
        k, g = self.k[:, None], self._g(x)
        log_pdf = (k - 1) * g.clamp_min(1e-300).log() - g - torch.lgamma(k) + 0.5 * k.log()
        return torch.where(g > 0, log_pdf.exp(), 0.0)

    @property
    def narrowest(self) -> Tensor:
        return ((self.k - 1) / self.k).sqrt()  # the width about the mode

    def _g(self, x: Tensor) -> Tensor:
        k = self.k[:, None]
        return k + k.sqrt() * x


@dataclass(frozen=True)
class ExponentialGaussian:
    r"""The law of :math:`\sigma Z + \tau (E - 1)`, Z standard normal, E exponential of mean one.

    Here :math:`\sigma^2 + \tau^2 = 1`, with tau (B) in (0, 1); mean zero, variance one.
    """

    tau: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        gauss, tail = self._parts(x)
        return _below(gauss) - tail

    def pdf(self, x: Tensor) -> Tensor:
        return self._parts(x)[1] / self.tau[:, None]

    @property
    def narrowest(self) -> Tensor:
        return (1 - self.tau.square()).sqrt()

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tau, sigma = self.tau[:, None], self.narrowest[:, None]
        shifted, ratio = x + tau, sigma / tau
        # In logarithms: far left the exponential overflows where the normal tail underflows.
        log_tail = ratio.square() / 2 - shifted / tau
        log_tail = log_tail + torch.special.log_ndtr(shifted / sigma - ratio)
        return shifted / sigma, log_tail.exp()


@dataclass(frozen=True)
class Triangular:
    """Triangular on [-sqrt 6, sqrt 6] with the mode (B) inside."""

    mode: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        low, high, mode = -math.sqrt(6), math.sqrt(6), self.mode[:, None]
        rising = (x - low).clamp_min(0.0).square() / ((high - low) * (mode - low))
        falling = 1 - (high - x).clamp_min(0.0).square() / ((high - low) * (high - mode))
        return torch.where(x < mode, rising, falling)

    def pdf(self, x: Tensor) -> Tensor:
        low, high, mode = -math.sqrt(6), math.sqrt(6), self.mode[:, None]
        side = torch.where(x < mode, (x - low) / (mode - low), (high - x) / (high - mode))
        return side.clamp_min(0.0) * 2 / (high - low)

    @property
    def narrowest(self) -> Tensor:
        return math.sqrt(6) - self.mode.abs()


@dataclass(frozen=True)
class Uniform:
    """Uniform on [-half, half], half (B)."""

    half: Tensor

    def cdf(self, x: Tensor) -> Tensor:
        return (0.5 + x / (2 * self.half[:, None])).clamp(0.0, 1.0)

    def pdf(self, x: Tensor) -> Tensor:
        half = self.half[:, None]
        return torch.where(x.abs() <= half, 1 / (2 * half), 0.0)

    @property
    def narrowest(self) -> Tensor:
        return self.half


def bivariate_normal_cdf(x: Tensor, y: Tensor, rho: Tensor) -> Tensor:
    r"""Distribution function of two standard normals of correlation rho, elementwise.

    .. math::
        \Phi_2(x, y; \rho) = \Phi(x)\Phi(y) + \frac1{2\pi} \int_0^{\arcsin\rho}
            \exp\Bigl(-\frac{x^2 + y^2 - 2xy\sin\theta}{2\cos^2\theta}\Bigr) d\theta

    by Gauss-Legendre quadrature: to 1e-12 where :math:`|\rho| \le 0.95`, and where y is zero for
    any rho below one.

    References:
        Plackett, A reduction formula for normal multivariate integrals, Biometrika 41 (1954).
        Drezner & Wesolowsky, J. Statist. Comput. Simul. 35 (1990), 101-107.
    """
    angle, squares, product = torch.asin(rho), (x.square() + y.square()) / 2, x * y
    integral = torch.zeros_like(squares)
    for node, weight in zip(*_legendre(), strict=True):
        theta = angle * node
        exponent = (product * theta.sin() - squares) / theta.cos().square()
        integral += weight * exponent.exp()
    return _below(x) * _below(y) + angle * integral / _TWO_PI


@cache
def _legendre() -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


@cache
def _hermite() -> tuple[list[float], list[float]]:
    """Nodes and weights for the mean under a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return nodes.tolist(), (weights / math.sqrt(_TWO_PI)).tolist()


def _phi(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(_TWO_PI)


def _below(x: Tensor) -> Tensor:
    """The distribution function of the standard normal."""
    result: Tensor = torch.special.ndtr(x)
    return result
