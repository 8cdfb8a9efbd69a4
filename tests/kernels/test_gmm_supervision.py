"""Schedules of the loss."""

from typing import Any, get_args

import pytest
import torch

from kernels.gmm.gridded import Gridded, kl_divergence
from kernels.gmm.mixture import Mixture
from kernels.gmm.supervision import (
    ALONE,
    LINEAR,
    SCALE,
    Schedule,
    schedule_weights,
    supervised_loss,
)


@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("epoch", [0, ALONE, LINEAR])
def test_weights_sum_to_one_and_never_fall(schedule: Schedule, epoch: int) -> None:
    weights = schedule_weights(schedule, 5, epoch)

    assert sum(weights) == pytest.approx(1)
    assert weights == sorted(weights)


def test_a_curriculum_goes_from_the_last_mixture_to_all() -> None:
    order = [schedule_weights("curriculum", 3, epoch) for epoch in (0, ALONE, LINEAR)]

    expected = [schedule_weights(name, 3, 0) for name in ("final_only", "linear", "uniform")]
    assert order == expected
    assert expected[0] == [0, 0, 1]
    assert expected[2][0] == expected[2][2]


def test_an_unknown_schedule_is_named() -> None:
    misspelled: Any = "linaer"
    with pytest.raises(ValueError, match="linaer"):
        schedule_weights(misspelled, 3, 0)


def test_the_loss_is_the_weighted_mean_of_log_divergences() -> None:
    edges = torch.linspace(-3, 3, 25, dtype=torch.float64).unsqueeze(0)
    gridded = Gridded(torch.full((2, 24), 1 / 24, dtype=torch.float64), edges)
    zero, one = torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    path = [Mixture(zero, zero, 2 * one), Mixture(zero, zero, one)]

    loss = supervised_loss(path, gridded, "linear", 0)

    first, last = ((kl_divergence(gridded, m) / SCALE).log1p().mean() for m in path)
    torch.testing.assert_close(loss, (first + 2 * last) / 3)
