from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2, norm

from pipelines import evaluation
from pipelines.evaluation import (
    crps,
    ensemble_mean_spread,
    rank_histogram,
    residual_std,
    rmse,
    spread_error_ratio,
)

SHAPES = st.tuples(st.integers(2, 6), st.integers(1, 5), st.integers(1, 4))
ENSEMBLES = SHAPES.flatmap(lambda s: arrays(np.float64, s, elements=st.floats(-100, 100)))


@pytest.fixture(params=[2**26, 100])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Everything in one block, and a block a row."""
    monkeypatch.setattr(evaluation, "_BLOCK_BYTES", request.param)
    return int(request.param)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def crps_by_pairs(members: np.ndarray, truth: np.ndarray, fair: bool) -> float:
    count = len(members)
    error = np.abs(members - truth).mean()
    pairs = np.abs(members[:, None] - members[None]).sum(axis=(0, 1)).mean()
    return float(error - pairs / (2 * count * (count - 1 if fair else count)))


def test_rmse_is_the_norm_over_the_root_of_the_count() -> None:
    x, y = normal(5, 7), normal(5, 7, seed=1)
    assert rmse(x, y) == pytest.approx(np.linalg.norm(x - y) / np.sqrt(35))
    assert rmse(x, x) == 0


@given(ENSEMBLES)
def test_moments_equal_those_of_the_whole_array(members: np.ndarray) -> None:
    found = ensemble_mean_spread(iter(members))
    np.testing.assert_allclose(found.mean, members.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(found.spread, members.std(axis=0, ddof=1), atol=1e-6)


def test_moments_hold_one_member_at_a_time() -> None:
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.pop()

    def stream() -> Iterator[np.ndarray]:
        for seed in range(5):
            member = normal(3, seed=seed).view(Counted)
            alive.append(1)
            yield member
            del member
            assert len(alive) <= 1

    ensemble_mean_spread(stream())


def test_moments_of_float16_members_do_not_overflow() -> None:
    members = np.full((400, 2), 300, np.float16)
    np.testing.assert_array_equal(ensemble_mean_spread(members).mean, [300, 300])


def test_moments_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="without members"):
        ensemble_mean_spread([])


@given(arrays(np.float64, (1, 4, 3), elements=st.floats(-100, 100)), st.floats(-10, 10))
def test_crps_of_a_deterministic_forecast_is_the_mean_absolute_error(
    member: np.ndarray, truth: float
) -> None:
    y = np.full((4, 3), truth)
    assert crps(member, y, fair=False) == pytest.approx(np.abs(member - y).mean())
    copies = np.repeat(member, 5, axis=0)
    for fair in (False, True):
        assert crps(copies, y, fair) == pytest.approx(np.abs(member - y).mean(), abs=1e-9)


@given(ENSEMBLES, st.booleans())
def test_crps_equals_the_double_sum(members: np.ndarray, fair: bool) -> None:
    truth = normal(*members.shape[1:])
    assert crps(members, truth, fair) == pytest.approx(
        crps_by_pairs(members, truth, fair), abs=1e-9
    )


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("shape", [(), (7,), (7, 3), (4, 3, 2)])
def test_scores_do_not_depend_on_blocks_or_dimensions(shape: tuple[int, ...]) -> None:
    members, truth = normal(5, *shape), normal(*shape, seed=1)
    spread = np.sqrt(6 / 5 * members.var(axis=0, ddof=1).mean())
    assert crps(members, truth) == pytest.approx(crps_by_pairs(members, truth, True))
    assert spread_error_ratio(members, truth) == pytest.approx(
        spread / rmse(members.mean(axis=0), truth)
    )
    ranks = (members < truth).sum(axis=0).ravel()
    np.testing.assert_array_equal(
        rank_histogram(members, truth, np.random.default_rng(0)), np.bincount(ranks, minlength=6)
    )


@pytest.mark.parametrize("y", [-1.5, 0.0, 0.8])
def test_crps_of_many_gaussian_members_has_the_closed_form(y: float) -> None:
    """CRPS(N(0, 1), y) = y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)."""
    closed = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    quantiles = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    assert crps(quantiles, y, fair=False) == pytest.approx(closed, abs=1e-4)


def test_the_fair_score_is_unbiased_in_the_number_of_members() -> None:
    points = 200_000
    truth = normal(points, seed=9)
    expected = 1 / np.sqrt(np.pi)  # of N(0, 1) members and truth, in the limit of many members
    for count in (2, 5):
        members = normal(count, points, seed=count)
        assert crps(members, truth) == pytest.approx(expected, abs=0.01)
        assert crps(members, truth, fair=False) > expected * (1 + 0.8 / count)


def test_scores_read_a_zarr_array(tmp_path: Path) -> None:
    members, truth = normal(4, 6, 3), normal(6, 3, seed=1)
    stored: Any = zarr.create_array(tmp_path / "x.zarr", data=members, chunks=(1, 6, 3))
    assert crps(stored, truth) == crps(members, truth)
    moments = ensemble_mean_spread(stored[i] for i in range(4))
    np.testing.assert_allclose(moments.mean, members.mean(axis=0))


def test_the_rank_histogram_of_exchangeable_members_is_flat() -> None:
    everyone = normal(8, 40_000)
    counts = rank_histogram(everyone[1:], everyone[0], np.random.default_rng(0))
    statistic = np.sum((counts - 5000.0) ** 2 / 5000)
    assert statistic < chi2.ppf(0.999, df=7)


def test_the_rank_histogram_of_ties_is_flat_and_of_an_outlier_is_not() -> None:
    zeros = np.zeros((3, 40_000))
    counts = rank_histogram(zeros, zeros[0], np.random.default_rng(0))
    assert np.sum((counts - 10_000.0) ** 2 / 10_000) < chi2.ppf(0.999, df=3)
    above = rank_histogram(zeros, zeros[0] + 1, np.random.default_rng(0))
    np.testing.assert_array_equal(above, [0, 0, 0, 40_000])


@pytest.mark.parametrize(("width", "expected"), [(1.0, 1.0), (0.5, 0.54), (2.0, 1.63)])
def test_spread_over_error_tells_confidence(width: float, expected: float) -> None:
    members, truth = width * normal(5, 100_000), normal(100_000, seed=1)
    closed = np.sqrt(6 / 5 * width**2 / (1 + width**2 / 5))
    assert closed == pytest.approx(expected, abs=0.01)
    assert spread_error_ratio(members, truth) == pytest.approx(closed, rel=0.01)


def test_the_ratio_without_error() -> None:
    assert np.isnan(spread_error_ratio(np.ones((2, 3)), np.ones(3)))
    assert spread_error_ratio(np.array([[0.0], [2.0]]), np.ones(1)) == np.inf


def test_the_residual_of_the_truth_is_the_noise() -> None:
    truth, noise = normal(200, 200), 0.1 * normal(200, 200, seed=1)
    observed = np.where(np.indices(truth.shape)[0] % 4 == 0, truth + noise, np.nan)
    assert residual_std(truth, observed) == pytest.approx(0.1, rel=0.02)
    with pytest.raises(ValueError, match="every observation is NaN"):
        residual_std(truth, np.full_like(truth, np.nan))


def test_what_cannot_be_scored_is_refused() -> None:
    members, truth = normal(3, 4), normal(4)
    with pytest.raises(ValueError, match=r"members \(3, 4\) do not fit the truth \(5,\)"):
        crps(members, normal(5))
    with pytest.raises(ValueError, match="leave out those that `valid` marks"):
        crps(np.where(members > 0, np.nan, members), truth)
    with pytest.raises(ValueError, match="needs two members"):
        crps(members[:1], truth)
    with pytest.raises(ValueError, match="one member has no spread"):
        spread_error_ratio(members[:1], truth)
