"""The sampler against an exact Gaussian, resumption, and independence of the batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels.samplers import PredictorCorrector, sample
from kernels.sde import VPSDE, per_sample

SDE = VPSDE()
LENGTH = 24


def _chain() -> tuple[Tensor, Tensor]:
    """Mean and covariance of a stationary AR(1) process."""
    i = torch.arange(LENGTH, dtype=torch.float64)
    return torch.linspace(-1, 1, LENGTH, dtype=torch.float64), 0.8 ** (i[:, None] - i).abs()


def _exact(x: Tensor, t: Tensor) -> Tensor:
    """Exact noise estimate of the AR(1) process."""
    mean, covariance = _chain()
    mu, sigma = SDE.mu(t[0]), SDE.sigma(t[0])
    total = mu**2 * covariance + sigma**2 * torch.eye(LENGTH, dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(total, (x - mu * mean).T)
    return sigma * solution.T


@pytest.mark.parametrize("corrections", [0, 1])
def test_exact_scores_give_the_process(corrections: int) -> None:
    n = 2500
    sampler = PredictorCorrector(
        _exact, SDE, (LENGTH,), range(n), 64, corrections, 0.02, dtype=torch.float64
    )
    x = sampler.run()
    mean, covariance = _chain()
    # Monte Carlo errors are 1/sqrt(n) = 0.02 for a mean; the bounds are about four of them.
    # (The corrections' step depends on the state, a bias that fades with the dimension.)
    torch.testing.assert_close(x.mean(dim=0), mean, rtol=0, atol=0.08)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0, atol=0.12)


def test_the_predictor_is_exact_where_the_noise_estimate_is_constant() -> None:
    constant = torch.randn(3, dtype=torch.float64)
    sampler = PredictorCorrector(
        lambda x, t: constant.expand_as(x), SDE, (3,), [0], 7, 0, dtype=torch.float64
    )
    start = sampler.x
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    clean = (start - SDE.sigma(ends[0]) * constant) / SDE.mu(ends[0])
    expected = SDE.mu(ends[1]) * clean + SDE.sigma(ends[1]) * constant
    torch.testing.assert_close(sampler.run(), expected)


def _elementwise(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) * per_sample(SDE.sigma(t), x)


def test_a_trajectory_is_its_seed_whatever_the_batch() -> None:
    seeds = (5, 6, 7, 8)
    together = sample(_elementwise, SDE, (3, 40, 500), seeds, steps=5)
    alone = sample(_elementwise, SDE, (3, 40, 500), (6,), steps=5)
    turned = sample(_elementwise, SDE, (3, 40, 500), seeds[::-1], steps=5)
    assert torch.equal(alone[0], together[1])
    assert torch.equal(turned.flip(0), together)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("stop", [0, 3, 8])
def test_resumed_sampling_is_bit_identical(stop: int, tmp_path: Path) -> None:
    def make() -> PredictorCorrector:
        return PredictorCorrector(_elementwise, SDE, (2, 9), (1, 2), 8, 2)

    first = make()
    for _ in range(stop):
        first.step()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    first.run()
    second = make()
    second.step()
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert second.index == stop
    assert torch.equal(second.run(), first.x)


def test_progress_counts_the_steps() -> None:
    seen: list[tuple[int, int]] = []
    sampler = PredictorCorrector(_elementwise, SDE, (2,), (1,), 3, 0)
    sampler.run(lambda done, steps: seen.append((done, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sampler.done
    with pytest.raises(RuntimeError, match="ended"):
        sampler.step()


def test_foreign_states_and_bad_settings_are_refused() -> None:
    state = PredictorCorrector(_elementwise, SDE, (2,), (1,), 3, 0).state_dict()
    for other in (
        PredictorCorrector(_elementwise, SDE, (2,), (1,), 4, 0),
        PredictorCorrector(_elementwise, SDE, (2,), (1, 2), 3, 0),
    ):
        with pytest.raises(ValueError, match="another run"):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="seed"):
        PredictorCorrector(_elementwise, SDE, (2,), ())
    with pytest.raises(ValueError, match="steps"):
        PredictorCorrector(_elementwise, SDE, (2,), (1,), 0)
