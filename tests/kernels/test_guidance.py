"""Guidance against closed forms, and its independence of the batch."""

import pytest
import torch
from torch import Tensor

from kernels.guidance import GaussianLikelihood, GuidedScore, NormalizedLikelihood
from kernels.samplers import sample
from kernels.score import MCScoreNet, kolmogorov_score
from kernels.sde import VPSDE, Network, per_sample

SDE = VPSDE()


def _prior(variance: float) -> Network:
    """Exact noise estimate of N(0, variance)."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        mu, sigma = per_sample(SDE.mu(t), x), per_sample(SDE.sigma(t), x)
        return sigma * x / (mu**2 * variance + sigma**2)

    return network


@pytest.mark.parametrize("time", [0.05, 0.4, 0.8])
def test_guided_score_equals_the_exact_posterior_of_a_gaussian(time: float) -> None:
    variance, std = 2.0, 0.3
    t = torch.full((4,), time, dtype=torch.float64)
    mu, sigma = SDE.mu(t[0]), SDE.sigma(t[0])
    x = torch.randn(4, 6, dtype=torch.float64)
    y = torch.randn(4, 6, dtype=torch.float64)
    # With gamma (sigma/mu)^2 the variance of x given x_t, the approximation is exact.
    gamma = float(variance * mu**2 / (mu**2 * variance + sigma**2))
    likelihood = GaussianLikelihood(lambda z: z, y, std, gamma)
    found = GuidedScore(_prior(variance), likelihood, SDE)(x, t)
    posterior = 1 / (1 / variance + 1 / std**2)
    mean = posterior * y / std**2
    expected = sigma * (x - mu * mean) / (mu**2 * posterior + sigma**2)
    torch.testing.assert_close(found, expected)


def test_detached_gradient_passes_by_the_network() -> None:
    variance, std, gamma = 2.0, 0.3, 1e-2
    t = torch.full((3,), 0.4, dtype=torch.float64)
    x, y = torch.randn(2, 3, 5, dtype=torch.float64)
    mu, sigma = SDE.mu(t[0]), SDE.sigma(t[0])
    eps = _prior(variance)(x, t)
    likelihood = GaussianLikelihood(lambda z: 2 * z, y, std, gamma, detach=True)
    error = y - 2 * (x - sigma * eps) / mu
    expected = eps - sigma * (2 / mu) * error / (std**2 + gamma * (sigma / mu) ** 2)
    torch.testing.assert_close(GuidedScore(_prior(variance), likelihood, SDE)(x, t), expected)


def test_normalized_guidance_follows_the_gradient_of_the_norm() -> None:
    t = torch.full((3,), 0.4, dtype=torch.float64)
    x, y = torch.randn(2, 3, 5, dtype=torch.float64)
    mu, sigma = SDE.mu(t[0]), SDE.sigma(t[0])
    eps = _prior(2.0)(x, t)
    error = y - (x - sigma * eps) / mu
    expected = eps - sigma * (2 * 0.7 / mu) * error / error.norm(dim=1, keepdim=True)
    likelihood = NormalizedLikelihood(lambda z: z, y, 0.7, detach=True)
    torch.testing.assert_close(GuidedScore(_prior(2.0), likelihood, SDE)(x, t), expected)


def _observe(x: Tensor) -> Tensor:
    return torch.sin(x[:, ::2, :, ::2, ::2])


def _network() -> MCScoreNet:
    torch.manual_seed(0)
    score = kolmogorov_score(3, 2, 8, hidden_channels=(64, 64), hidden_blocks=(1, 1))
    score.chunk = 4
    return score


def _likelihood(kind: str, y: Tensor) -> GaussianLikelihood | NormalizedLikelihood:
    made: dict[str, GaussianLikelihood | NormalizedLikelihood] = {
        "network": GaussianLikelihood(_observe, y, 0.1),
        "detached": GaussianLikelihood(_observe, y, 0.1, detach=True),
        "normalized": NormalizedLikelihood(_observe, y),
    }
    return made[kind]


@pytest.mark.parametrize("kind", ["network", "detached", "normalized"])
def test_guided_samples_do_not_change_with_the_batch_around_them(kind: str) -> None:
    """To the last bit: chunks of windows never straddle trajectories, so every convolution has
    the same shape whatever the batch (the backends round differently from shape to shape), and
    everything else is elementwise or reduced within one trajectory."""
    score = _network()
    y = torch.randn(3, 3, 2, 4, 4)
    shape, seeds = (5, 2, 8, 8), [11, 12, 13]

    def draw(rows: slice) -> Tensor:
        guided = GuidedScore(score, _likelihood(kind, y[rows]), SDE)
        return sample(guided, SDE, shape, seeds[rows], steps=4, corrections=1)

    together = draw(slice(0, 3))
    assert torch.isfinite(together).all()
    assert torch.equal(draw(slice(1, 2))[0], together[1])
    assert torch.equal(draw(slice(1, 3)), together[1:])
