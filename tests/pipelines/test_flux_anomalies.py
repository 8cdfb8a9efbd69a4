"""What hours tell of a day, what a left-out year leaves, and how that fades."""

import numpy as np

from pipelines.fluxes import FluxRecords
from pipelines.fluxes.anomalies import DampedAnomalies
from pipelines.fluxes.hours import hourly_responses
from pipelines.fluxes.regression import QuadraticRidge, cross_fitted


def records(years: int = 3) -> FluxRecords:
    """One site whose flux is its driver, and an offset of each year."""
    first, last = np.datetime64("2015-01-01"), np.datetime64(f"{2015 + years}-01-01")
    days = np.arange(first, last)
    driver = np.random.default_rng(1).normal(size=(1, len(days), 1))
    offset = days.astype("datetime64[Y]").astype(int)[None, :, None] - 45.0
    return FluxRecords(
        ("a",), days, driver, np.ones((1, 1)), driver + offset, ("x",), ("p",), ("gpp",)
    )


def test_a_year_is_predicted_by_the_others() -> None:
    made = records()
    training = np.ones((1, len(made.days)), bool)
    training[0, -30:] = False
    found = cross_fitted(made, made.dynamic, training)
    for year in ("2015", "2016", "2017"):
        inside = made.days.astype("datetime64[Y]") == np.datetime64(year)
        others = QuadraticRidge.fit(made, training & ~inside).predict(made.dynamic)
        np.testing.assert_array_equal(found[:, inside], others[:, inside])
    later = records(4)
    training = np.ones((1, len(later.days)), bool)
    training[:, later.days >= np.datetime64("2018-01-01")] = False
    all_of_it = QuadraticRidge.fit(later, training).predict(later.dynamic)
    found = cross_fitted(later, later.dynamic, training)
    np.testing.assert_array_equal(found[~training], all_of_it[~training])
    short = records(1)
    training = np.ones((1, 365), bool)
    march = short.days.astype("datetime64[M]") == np.datetime64("2015-03")
    others = QuadraticRidge.fit(short, training & ~march).predict(short.dynamic)
    found = cross_fitted(short, short.dynamic, training)
    np.testing.assert_array_equal(found[:, march], others[:, march])


def test_anomalies_fade_as_they_did_in_training() -> None:
    rng = np.random.default_rng(2)
    series = np.zeros((1, 6000, 2))
    for day in range(1, 6000):
        series[0, day] = 0.9 * series[0, day - 1] + rng.normal(size=2)
    training = np.ones((1, 6000), bool)
    training[:, 5000:] = False
    fitted = DampedAnomalies.fit(series, training, horizon=20, penalty=1e-3)
    where = np.stack([np.zeros(900, int), np.arange(5000, 5900)], axis=1)
    found = fitted.predict(series, where, context=40)
    truth = series[0, where[:, 1:] + 40 + np.arange(20)]
    expected = series[0, where[:, 1] + 39][:, None] * 0.9 ** np.arange(1, 21)[:, None]
    ours, best = (np.mean((truth - each) ** 2) for each in (found, expected))
    assert ours < 1.03 * best
    changed = series.copy()
    changed[~training] = 1e6
    again = DampedAnomalies.fit(changed, training, horizon=20, penalty=1e-3)
    np.testing.assert_array_equal(again.weights, fitted.weights)
    blind = series.copy()
    blind[0, 5040:] = np.nan  # the days to forecast, and all after them
    np.testing.assert_array_equal(fitted.predict(blind, where[:1], 40), found[:1])


def test_where_nothing_was_known_lately_no_anomaly_is_expected() -> None:
    nothing = np.full((1, 100, 1), np.nan)
    fitted = DampedAnomalies.fit(nothing, np.ones((1, 100), bool), horizon=5)
    assert not fitted.predict(nothing, np.array([[0, 0]]), 40).any()


def test_responses_of_hours_are_means_of_responses_and_not_of_weather() -> None:
    warmth, light = np.full((3, 48), 10.0), np.zeros((3, 48))
    light[:2, 12:36] = 300.0
    light[1, 12:24], light[1, 24:36] = 600.0, 0.0
    dry = np.full((3, 48), 10.0)
    found = hourly_responses(warmth, light, dry)
    np.testing.assert_allclose(found["light_300"], [0.25, 0.25 * 2 / 3, 0.0])
    np.testing.assert_allclose(found["light_dry"], found["light_300"] / np.e)
    np.testing.assert_allclose(found["light_warm"], found["light_300"] * 0.75)
    np.testing.assert_allclose(found["respiration"], 1.0)
    assert not found["frost"].any()
    uneven = np.where(np.arange(48) < 24, 0.0, 20.0)[None]
    half = np.where(np.arange(48) < 24, 0.0, 500.0)[None]
    told = hourly_responses(uneven, half, dry[:1])
    assert told["respiration"] > 1.2
    assert [told[f"temperature_{part}"].item() for part in ("day", "night")] == [20.0, 0.0]
    dark = hourly_responses(uneven, np.zeros((1, 48)), dry[:1])
    assert dark["temperature_day"] == 10.0
    half[0, 3] = np.nan
    assert np.isnan(hourly_responses(uneven, half, dry[:1])["temperature_night"]).all()
