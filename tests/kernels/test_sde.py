"""The schedule's identities, and a loss that knows no batch."""

from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.sde import VPSDE, denoising_loss

Schedule = Literal["cosine_squared", "cosine"]

SCHEDULES: tuple[Schedule, ...] = ("cosine_squared", "cosine")


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(t=st.floats(0, 1), eta=st.floats(1e-4, 0.5))
def test_variance_is_preserved(schedule: Schedule, t: float, eta: float) -> None:
    sde = VPSDE(schedule, eta)
    time = torch.tensor(t, dtype=torch.float64)
    total = sde.mu(time) ** 2 + sde.sigma(time) ** 2
    assert total.item() == pytest.approx(1 + eta**2, rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends(schedule: Schedule) -> None:
    sde = VPSDE(schedule)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sde.mu(ends), torch.tensor([1.0, 1e-3], dtype=torch.float64))
    torch.testing.assert_close(sde.sigma(ends), torch.tensor([1e-3, 1.0], dtype=torch.float64))


def test_published_values_at_half_time() -> None:
    half = torch.tensor(0.5, dtype=torch.float64)
    assert VPSDE().mu(half).item() == pytest.approx(0.5158, abs=1e-4)
    assert VPSDE().sigma(half).item() == pytest.approx(0.8567, abs=1e-4)


def test_single_precision_keeps_its_digits_near_zero() -> None:
    t = torch.logspace(-6, 0, 50, dtype=torch.float64)
    torch.testing.assert_close(
        VPSDE().sigma(t.float()).double(), VPSDE().sigma(t), rtol=1e-5, atol=0
    )


def test_bad_arguments_are_named() -> None:
    unknown: Any = "linear"
    with pytest.raises(ValueError, match="linear"):
        VPSDE(unknown)
    with pytest.raises(ValueError, match="eta"):
        VPSDE(eta=0.0)


def _zero(x: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(x)


def test_loss_of_each_sample_is_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 5, 3, 8, generator=generator)
    t = torch.rand(5, generator=generator)

    def network(z: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(z) * time[:, None, None]

    whole = denoising_loss(network, VPSDE(), x[..., :4], t, noise[..., :4])
    parts = [
        denoising_loss(network, VPSDE(), x[i : i + 1, :, :4], t[i : i + 1], noise[i : i + 1, :, :4])
        for i in range(5)
    ]
    assert whole.shape == (5,)
    torch.testing.assert_close(whole, torch.cat(parts))


def test_a_network_that_knows_the_clean_state_loses_nothing() -> None:
    x, noise = torch.randn(2, 4, 6, dtype=torch.float64).unbind()
    t = torch.rand(4, dtype=torch.float64)
    sde = VPSDE()

    def oracle(z: Tensor, time: Tensor) -> Tensor:
        return (z - sde.mu(time)[:, None] * x) / sde.sigma(time)[:, None]

    assert denoising_loss(oracle, sde, x, t, noise).max() < 1e-18
    expected = noise.square().mean(dim=1)
    torch.testing.assert_close(denoising_loss(_zero, sde, x, t, noise), expected)
