"""One-dimensional Gaussian mixtures: density, distribution, cell masses, quantiles, moments."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_SQRT_HALF = math.sqrt(0.5)
#: Cells narrower than this, in sigmas and in decay lengths, are integrated by a series.
_NARROW = 0.25
#: Halvings of the bracket of a quantile: more than the digits of float64.
_HALVINGS = 60


class Mixture(NamedTuple):
    r"""A batch of mixtures :math:`f(z) = \sum_k w_k\, \mathcal N(z; \mu_k, \sigma_k^2)`.

    Attributes:
        log_weights: :math:`\log w_k`, :math:`(*, K)`; the weights of a mixture sum to one.
        means: :math:`\mu_k`, :math:`(*, K)`, in the unit of z.
        sigmas: :math:`\sigma_k > 0`, :math:`(*, K)`, in the unit of z.
    """

    log_weights: Tensor
    means: Tensor
    sigmas: Tensor

    def to(self, target: torch.dtype | torch.device | str) -> "Mixture":
        """The same mixtures in another precision or on another device."""
        return Mixture(*(tensor.to(target) for tensor in self))

    def sort(self) -> "Mixture":
        """The same mixtures, their components in the order of their means."""
        order = self.means.argsort(dim=-1, stable=True)
        return Mixture(*(tensor.gather(-1, order) for tensor in self))


class Moments(NamedTuple):
    """Mean, variance, skewness and excess kurtosis, each (*)."""

    mean: Tensor
    variance: Tensor
    skewness: Tensor
    kurtosis: Tensor


def standardized(m: Mixture, z: Tensor) -> Tensor:
    """Distances of the points z (*, M) from every mean, in sigmas, (*, M, K)."""
    return (z.unsqueeze(-1) - m.means.unsqueeze(-2)) / m.sigmas.unsqueeze(-2)


def log_component_densities(m: Mixture, z: Tensor) -> Tensor:
    r"""Terms :math:`\log w_k \mathcal N(z_i; \mu_k, \sigma_k^2)`, (*, M, K), at points (*, M)."""
    scale = m.log_weights - m.sigmas.log()
    return scale.unsqueeze(-2) - 0.5 * standardized(m, z).square() - _LOG_SQRT_2PI


def log_density(m: Mixture, z: Tensor) -> Tensor:
    """Log density at the points z (*, M), (*, M), in nats."""
    return log_component_densities(m, z).logsumexp(dim=-1)


def cdf(m: Mixture, z: Tensor) -> Tensor:
    """Probability of less than z (*, M), (*, M): monotone in z, in [0, 1], exact near 0."""
    weights = m.log_weights.exp().unsqueeze(-2)
    # Not ndtr: torch's loses the lower tail.
    below = 0.5 * torch.special.erfc(-_SQRT_HALF * standardized(m, z))
    total: Tensor = (weights * below).sum(dim=-1)
    return total.clamp(max=1)


def survival(m: Mixture, z: Tensor) -> Tensor:
    """Probability of more than z (*, M), (*, M): one minus the CDF, exact near 0."""
    return cdf(m._replace(means=-m.means), -z)


def log_component_masses(m: Mixture, edges: Tensor) -> Tensor:
    r"""Log of the mass that each component has in each cell.

    .. math:: \log w_k \left[\Phi\!\left(\tfrac{e_{i+1} - \mu_k}{\sigma_k}\right)
              - \Phi\!\left(\tfrac{e_i - \mu_k}{\sigma_k}\right)\right]

    Args:
        m: Mixtures, :math:`(*, K)`.
        edges: Edges of the cells, increasing, :math:`(*, N+1)`.

    Returns:
        :math:`(*, N, K)`, finite and to nearly full relative precision of the mass for cells of
        any width, however far out.
    """
    z = standardized(m, edges)
    width = (edges.diff(dim=-1).unsqueeze(-1)) / m.sigmas.unsqueeze(-2)
    center = 0.5 * (z[..., 1:, :] + z[..., :-1, :]).abs()
    return m.log_weights.unsqueeze(-2) + log_interval_mass(center, width)


def log_cell_masses(m: Mixture, edges: Tensor) -> Tensor:
    """Log probability of each cell between the edges (*, N+1), (*, N)."""
    return log_component_masses(m, edges).logsumexp(dim=-1)


def log_interval_mass(center: Tensor, width: Tensor) -> Tensor:
    r"""Log standard-normal mass of the interval of a width about a center, :math:`c \ge 0`.

    A difference of two values of :math:`\Phi` loses its digits in the tails and in narrow
    intervals. An interval that holds zero is taken as it is; beyond, its lower end a scales it,

    .. math:: \varphi(a)\left[R(a) - e^{-ch} R(b)\right], \qquad R(t) = (1 - \Phi(t))/\varphi(t),

    and a narrow one is :math:`\varphi(c)\, h \sum_j He_{2j}(c) (h/2)^{2j} / (2j+1)!`.
    """
    narrow = width * center.clamp(min=1) < _NARROW
    # Each branch sees only what it can take: the gradient of what `where` drops must be finite.
    c, h = center.masked_fill(narrow, 1.0), width.masked_fill(narrow, 1.0)
    low, high = c - 0.5 * h, c + 0.5 * h
    tail = low > 0
    a, b = low.masked_fill(~tail, 1.0), high.masked_fill(~tail, 2.0)
    decay = (-c * h).exp()
    beyond = (_mills(a) - decay.masked_fill(~tail, 0.0) * _mills(b)).log()
    beyond = beyond - 0.5 * a.square() - _LOG_SQRT_2PI
    low, high = low.masked_fill(tail, -1.0), high.masked_fill(tail, 1.0)
    inside = (0.5 * (torch.erf(high * _SQRT_HALF) - torch.erf(low * _SQRT_HALF))).log()
    wide = torch.where(tail, beyond, inside)
    h = width.masked_fill(~narrow, 0.1)
    return torch.where(narrow, _narrow_log_mass(center.masked_fill(~narrow, 1.0), h), wide)


def _mills(t: Tensor) -> Tensor:
    """Mills ratio of the standard normal."""
    result: Tensor = math.sqrt(math.pi / 2) * torch.special.erfcx(t * _SQRT_HALF)
    return result


def _narrow_log_mass(center: Tensor, width: Tensor) -> Tensor:
    """The series in even Hermite polynomials; its first neglected term is below 1e-16."""
    # Of He_n(c) (h/2)^n, which stays small; He_n(c) alone would overflow far out.
    quarter, step = 0.25 * width.square(), 0.5 * width * center
    even, odd = torch.ones_like(step), step
    total = torch.zeros_like(step)
    for n in range(2, 12, 2):
        even = step * odd - (n - 1) * quarter * even
        odd = step * even - n * quarter * odd
        total = total + even / math.factorial(n + 1)
    return total.log1p() + width.log() - 0.5 * center.square() - _LOG_SQRT_2PI


def quantile(m: Mixture, p: Tensor) -> Tensor:
    r"""Points below which the probability is p, by bisection; differentiable.

    The quantile of a mixture lies between the least and the greatest of its components'. Above
    one half it is found from the survival function, so that 1 - p keeps its digits.

    Args:
        m: Mixtures, :math:`(*, K)`.
        p: Probabilities, :math:`(*, M)` or :math:`(M)`.

    Returns:
        :math:`(*, M)`.
    """
    p = p + torch.zeros_like(m.means[..., :1])
    root: Tensor
    with torch.no_grad():
        ends = m.means.unsqueeze(-2) + m.sigmas.unsqueeze(-2) * torch.special.ndtri(p).unsqueeze(-1)
        low, high = ends.amin(dim=-1), ends.amax(dim=-1)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            below = _excess(m, middle, p) < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        root = 0.5 * (low + high)
        slope: Tensor = log_density(m, root).exp()
    if not any(tensor.requires_grad for tensor in (*m, p)):
        return root
    # The implicit function theorem: one step of Newton's whose value is nothing.
    rise = _excess(m, root, p)
    return root - (rise - rise.detach()) / slope


def _excess(m: Mixture, z: Tensor, p: Tensor) -> Tensor:
    """F(z) - p, from whichever tail is the smaller."""
    excess: Tensor = torch.where(p < 0.5, cdf(m, z) - p, (1 - p) - survival(m, z))
    return excess


def moments(m: Mixture) -> Moments:
    """Mean, variance, skewness and excess kurtosis of each mixture."""
    weights = m.log_weights.softmax(dim=-1)
    mean = (weights * m.means).sum(dim=-1)
    shift, spread = m.means - mean.unsqueeze(-1), m.sigmas.square()
    variance = (weights * (spread + shift.square())).sum(dim=-1)
    # In units of the standard deviation: the fourth power of a picosecond underflows float32.
    unit = variance.sqrt().unsqueeze(-1)
    shift, spread = shift / unit, spread / unit.square()
    third = (weights * shift * (shift.square() + 3 * spread)).sum(dim=-1)
    fourth = shift.square() * (shift.square() + 6 * spread) + 3 * spread.square()
    return Moments(mean, variance, third, (weights * fourth).sum(dim=-1) - 3)
