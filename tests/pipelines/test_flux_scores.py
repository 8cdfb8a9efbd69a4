"""Scores of fluxes, as laws, and the forecasts that know no model."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipelines.fluxes import FluxRecords
from pipelines.fluxes.forecasts import climatology, cut, forecast_windows, on_days, persistence
from pipelines.fluxes.scores import (
    SCORES,
    bias,
    drift,
    kge,
    nse,
    over_seeds,
    over_sites,
    rmse,
    skill,
)

Array = NDArray[np.float64]

DAYS = 40
HOLES = arrays(np.bool_, (3, DAYS, 2), elements=st.booleans(), fill=st.nothing())


def fluxes(seed: int) -> Array:
    """Of three sites, in whose means and deviations there is nothing special."""
    draws = np.random.default_rng(seed)
    return np.asarray(draws.normal(size=(3, DAYS, 2)) * [2.0, 0.3] + [5.0, -0.7])


def with_holes(values: Array, holes: NDArray[np.bool_]) -> Array:
    """Days 0 and 1 stay, so that there is something to score."""
    where = holes & (np.arange(DAYS) > 1)[None, :, None]
    return np.where(where, np.nan, values)


# --- Scores ---------------------------------------------------------------------------------------


def test_drift_is_the_error_of_the_sum_over_what_was_exchanged_meanwhile() -> None:
    observed = fluxes(3)[..., 1]
    turning = observed * np.where(np.arange(DAYS) % 2, 1, -1)
    found = drift(turning + 0.1, turning, turning, [1, 7, DAYS])
    for n, days in enumerate((1, 7, DAYS)):
        expected = 0.1 * days / np.abs(turning[:, :days]).sum(axis=1)
        np.testing.assert_allclose(found[:, n], expected)
    cancels = turning + np.where(np.arange(DAYS) % 4 < 2, 0.3, -0.3)
    np.testing.assert_allclose(drift(cancels, turning, turning, [4, DAYS]), 0, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), holes=HOLES)
def test_the_truth_and_the_mean_have_the_scores_that_they_must(
    seed: int, holes: NDArray[np.bool_]
) -> None:
    observed = with_holes(fluxes(seed), holes)
    ones = np.ones((3, 2))
    for score, perfect in ((nse, 1), (kge, 1), (rmse, 0), (bias, 0)):
        np.testing.assert_allclose(score(observed, observed), perfect * ones, atol=1e-9)
    mean = np.broadcast_to(np.nanmean(observed, axis=1, keepdims=True), observed.shape)
    np.testing.assert_allclose(nse(mean, observed), 0 * ones, atol=1e-9)
    np.testing.assert_allclose(bias(mean, observed), 0 * ones, atol=1e-9)
    np.testing.assert_allclose(rmse(mean, observed), np.nanstd(observed, axis=1), atol=1e-9)
    np.testing.assert_allclose(kge(mean, observed), (1 - math.sqrt(2)) * ones, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-3, 3), factor=st.floats(0.2, 3))
def test_shifts_and_factors_show_where_they_must(seed: int, shift: float, factor: float) -> None:
    observed, predicted = fluxes(seed), fluxes(seed + 1)
    np.testing.assert_allclose(bias(observed + shift, observed), shift, atol=1e-12)
    np.testing.assert_allclose(rmse(observed + shift, observed), abs(shift), atol=1e-12)
    # A factor leaves the correlation, and changes deviation and mean by itself.
    expected = 1 - math.sqrt(2) * abs(factor - 1)
    np.testing.assert_allclose(kge(factor * observed, observed), expected, atol=1e-12)
    # No unit is special.
    np.testing.assert_allclose(
        nse(factor * predicted + shift, factor * observed + shift), nse(predicted, observed)
    )
    np.testing.assert_allclose(kge(factor * predicted, factor * observed), kge(predicted, observed))
    np.testing.assert_allclose(
        1 - nse(predicted, observed),
        rmse(predicted, observed) ** 2 / observed.var(axis=1),
    )


@pytest.mark.parametrize("score", SCORES.values(), ids=list(SCORES))
def test_days_that_are_unknown_on_either_side_do_not_count(
    score: Callable[[Array, Array], Array],
) -> None:
    observed, predicted = fluxes(0), fluxes(1)
    known = np.arange(DAYS) % 3 > 0
    partly, other = observed.copy(), predicted.copy()
    partly[:, ::6] = np.nan
    other[:, 3::6] = np.nan
    expected = score(predicted[:, known], observed[:, known])
    np.testing.assert_allclose(score(other, partly), expected, rtol=1e-12)


def test_what_cannot_be_scored_is_nan_and_nothing_else() -> None:
    observed, predicted = fluxes(0), fluxes(1)
    observed[1] = np.nan
    observed[2, :, 0] = 0.1
    for score in (nse, kge):
        known = np.isfinite(score(predicted, observed))
        np.testing.assert_array_equal(known, [[True, True], [False, False], [False, True]])
    assert np.isfinite(rmse(predicted, observed)[2]).all()
    spread = over_sites(nse(predicted, observed))
    assert np.isfinite(spread.median).all()
    assert np.isnan(over_sites(np.full((4, 2), np.nan)).p10).all()


def test_percentiles_over_sites_leave_out_those_without_a_score() -> None:
    scores = np.array([[0.0, 5.0], [1.0, np.nan], [2.0, 7.0]])
    found = over_sites(scores)
    np.testing.assert_allclose(found.median, [1.0, 6.0])
    np.testing.assert_allclose(found.p10, [0.2, 5.2])
    np.testing.assert_allclose(found.p90, [1.8, 6.8])


def test_skill_is_one_for_no_error_and_zero_for_the_reference() -> None:
    found = skill(np.array([0.0, 2.0, 4.0, 1.0]), np.array([2.0, 2.0, 2.0, 0.0]))
    np.testing.assert_array_equal(found, [1.0, 0.0, -1.0, np.nan])


def test_intervals_over_seeds_are_students() -> None:
    # t = 2.776 for four degrees of freedom, from any table.
    found = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert over_seeds([2.0, np.nan]).mean == 2.0
    assert math.isnan(over_seeds([2.0]).half)
    assert math.isnan(over_seeds([]).mean)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    covered = [abs(found.mean) < found.half for found in map(over_seeds, draws)]
    assert 0.935 < np.mean(covered) < 0.965


# --- Forecasts ------------------------------------------------------------------------------------


def records(years: int, phase: float = 0.0) -> FluxRecords:
    """Two sites with a season and nothing else."""
    days = np.arange(np.datetime64("2001-01-01"), np.datetime64(f"{2001 + years}-01-01"))
    start = days.astype("datetime64[Y]").astype("datetime64[D]")
    angle = 2 * np.pi * ((days - start).astype(float) / 365 + phase)
    flux = np.stack([1 + np.sin(angle), 3 + np.cos(angle)])[..., None]
    empty = np.zeros((2, len(days), 0))
    return FluxRecords(("a", "b"), days, empty, np.zeros((2, 0)), flux, (), (), ("gpp",))


def test_forecasts_cover_every_test_day_once_until_less_than_a_horizon_is_left() -> None:
    targets = np.zeros((3, 100), bool)
    targets[1:, 37:] = True
    found = forecast_windows(targets, context=10, horizon=12)
    values = np.ones((len(found), 12, 1))
    covered = np.isfinite(on_days(values, found, 10, targets.shape))[..., 0]
    assert len(found) * 12 == covered.sum()
    np.testing.assert_array_equal(covered[1:, 37:97], True)
    assert not covered[0].any()
    assert not covered[:, :37].any()
    assert not covered[:, 97:].any()


def test_what_is_cut_lies_on_its_days_again() -> None:
    values = fluxes(2)
    where = np.array([[0, 3], [2, 11]])
    back = on_days(cut(values, where, 5, 7), where, 5, (3, DAYS))
    known = np.isfinite(back)
    np.testing.assert_array_equal(back[known], values[known])
    assert known.sum() == 2 * 7 * 2
    assert known[0, 8:15].all()
    assert known[2, 16:23].all()
    last = persistence(values, where, 5, 7)
    np.testing.assert_array_equal(last[1], np.tile(values[2, 15], (7, 1)))


def test_climatology_finds_the_season_and_learns_from_training_days_alone() -> None:
    made = records(years=3)
    training = np.zeros((2, len(made.days)), bool)
    training[0, :365] = True
    cycle = climatology(made, training, half_window=0)
    np.testing.assert_allclose(cycle, made.fluxes, atol=1e-12)
    made.fluxes[0, 365:] = 100.0  # later years of the first site
    smooth = climatology(made, training, half_window=7)
    assert np.abs(smooth[0] - records(3).fluxes[0]).max() < 0.02
    # The second has no training day and takes its record, where a year more counts.
    made.fluxes[1, 730:] += 3.0
    np.testing.assert_allclose(climatology(made, training, 0)[1], records(3).fluxes[1] + 1.0)


def test_climatology_of_half_a_year_takes_the_mean_for_the_rest() -> None:
    made = records(years=2)
    training = np.zeros((2, len(made.days)), bool)
    training[:, :180] = True
    cycle = climatology(made, training, half_window=0)
    mean = made.fluxes[:, :180].mean(axis=1)
    np.testing.assert_allclose(cycle[:, 200], mean)
    np.testing.assert_allclose(cycle[:, 400], made.fluxes[:, 35])
