"""Exact shapes against SciPy's distributions, and every density against its own CDF."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from kernels.gmm.families import FAMILIES
from kernels.gmm.shapes import (
    ExponentialGaussian,
    Gamma,
    LogNormal,
    MaximumOfPair,
    MaximumOfSeveral,
    Shape,
    SkewNormal,
    StudentT,
    bivariate_normal_cdf,
)

X = torch.linspace(-7, 9, 41, dtype=torch.float64)[None]


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("shape", "peer"),
    [
        (SkewNormal(row(0.5)), scipy.stats.skewnorm(0.5)),
        (SkewNormal(row(8.0)), scipy.stats.skewnorm(8.0)),
        *((StudentT(row(n)), scipy.stats.t(n)) for n in (1, 2, 3, 4, 9, 10)),
        (LogNormal(row(0.6)), scipy.stats.lognorm(0.6, loc=-1 / 0.6, scale=1 / 0.6)),
        (Gamma(row(3.0)), scipy.stats.gamma(3, loc=-math.sqrt(3), scale=1 / math.sqrt(3))),
        (ExponentialGaussian(row(0.8)), scipy.stats.exponnorm(0.8 / 0.6, loc=-0.8, scale=0.6)),
    ],
)
def test_shapes_equal_those_of_scipy(shape: Shape, peer: "scipy.stats.rv_frozen") -> None:
    x = X[0].numpy()
    np.testing.assert_allclose(shape.cdf(X)[0], peer.cdf(x), atol=1e-12)
    np.testing.assert_allclose(shape.pdf(X)[0], peer.pdf(x), atol=1e-12)


@pytest.mark.parametrize("rho", [-0.95, -0.5, 0.0, 0.3, 0.9, 0.95])
def test_bivariate_normal_is_the_integral_of_its_conditional(rho: float) -> None:
    # Phi_2(x, y) = int_{-inf}^x phi(u) Phi((y - rho u) / sqrt(1 - rho^2)) du, by 500 nodes.
    y = 0.3 * X + 0.4
    nodes, weights = np.polynomial.legendre.leggauss(500)
    u = ((X[0].numpy() + 12)[:, None] * (nodes + 1) / 2) - 12
    inside = (
        np.exp(-(u**2) / 2)
        / math.sqrt(2 * math.pi)
        * scipy.special.ndtr((y[0].numpy()[:, None] - rho * u) / math.sqrt(1 - rho**2))
    )
    integral = (inside * weights).sum(axis=1) * (X[0].numpy() + 12) / 2
    np.testing.assert_allclose(bivariate_normal_cdf(X, y, row(rho))[0], integral, atol=1e-12)


def test_maximum_of_several_is_that_of_a_pair_with_the_same_correlation() -> None:
    means, sigmas, rho = row(0.0, 0.7)[None], row(1.0, 0.4)[None], row(0.5)
    pair, several = MaximumOfPair(means, sigmas, rho), MaximumOfSeveral(means, sigmas, rho)
    torch.testing.assert_close(several.cdf(X), pair.cdf(X), atol=1e-11, rtol=0)
    torch.testing.assert_close(several.pdf(X), pair.pdf(X), atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_the_distribution_function(name: str) -> None:
    shape = FAMILIES[name].draw(8, torch.Generator().manual_seed(1))
    # Gauss-Legendre on short intervals; those with a kink or a jump are left out.
    edges = torch.linspace(-4.01, 5.02, 1001, dtype=torch.float64)
    nodes, weights = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(5))
    half = edges.diff() / 2
    z = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    density = shape.pdf(z.flatten()[None].expand(8, -1)).reshape(8, *z.shape)
    integral = (density * weights).sum(dim=2) * half
    found = shape.cdf(edges[None].expand(8, -1)).diff(dim=1)
    wrong = (integral - found).abs() > 1e-11
    kinks = {"uniform": 2, "triangular": 3, "gamma": 1}
    assert wrong.sum(dim=1).max() <= kinks.get(name, 0)
