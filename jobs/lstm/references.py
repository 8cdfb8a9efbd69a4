"""Networks of towers beside what any of them must beat, all scored on the same days."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.collecting import stored
from jobs.lstm.collected import Collected, Tested, point_name
from jobs.lstm.samples import Samples
from pipelines.fluxes.anomalies import DampedAnomalies
from pipelines.fluxes.forecasts import (
    climatology,
    forecast_windows,
    lagged,
    on_days,
    persistence,
)
from pipelines.fluxes.records import Array
from pipelines.fluxes.regression import QuadraticRidge, cross_fitted
from pipelines.fluxes.scores import SCORES, Interval, nse, over_seeds, over_sites

_EVE = "the day before the window"
_DAILY = (
    "temperature",
    "temperature_min",
    "temperature_max",
    "radiation",
    "vapor_deficit",
    "season_sine",
    "season_cosine",
)
_FADING = "quadratic regression, all drivers, fading anomalies"
_NSE = list(SCORES).index("nse")


@dataclass(frozen=True)
class Compared:
    """One line of the comparison.

    Attributes:
        kind: Of the split.
        method: What forecast, in words.
        hears: The latest flux that it knows of.
        nse: By flux, the median over sites; of several networks the mean, with its interval.
    """

    kind: str
    method: str
    hears: str
    nse: Sequence[Interval]


def compare(found: Collected) -> Iterator[Compared]:
    """References first, then every point of the sweep: its networks, the mean of their forecasts,
    and the mean of that and of the regression with fading anomalies."""
    for kind, member in found.best.items():
        known = np.isfinite(_predicted(found, member))
        references = _references(found, member)
        for (method, hears), forecast in references.items():
            yield _line(found, kind, method, hears, np.where(known, forecast, np.nan))
        for _, members in found.by_point:
            if members[0].kind == kind:
                yield from _networks(found, members, references[_FADING, _EVE])


def _references(found: Collected, member: Tested) -> Mapping[tuple[str, str], Array]:
    """Forecasts without a network, (S, T, F), by their name and the latest flux that they know."""
    config, records = found.config.at_point(member.point), found.records
    samples = Samples(config, records)
    past, horizon = config.windows.context, config.evaluation.horizon
    training, shape = samples.split.training, (len(records.sites), len(records.days))
    where = forecast_windows(samples.split.test, past, horizon)
    held = persistence(records.fluxes, where, past, horizon)
    regressed = cross_fitted(records, samples.dynamic, training, config.objective.penalty)
    anomalies = records.fluxes - regressed
    fading = DampedAnomalies.fit(anomalies, training, horizon).predict(anomalies, where, past)
    return {
        ("climatology", "training"): climatology(records, training),
        ("persistence, 1 day", "the day before"): lagged(records.fluxes, 1),
        (f"persistence, {horizon} days", f"{horizon} days before"): lagged(records.fluxes, horizon),
        ("persistence, held", _EVE): on_days(held, where, past, shape),
        ("quadratic regression, daily weather", "training"): _daily_regression(samples),
        ("quadratic regression, all drivers", "training"): regressed,
        (_FADING, _EVE): regressed + on_days(fading, where, past, shape),
    }


def _daily_regression(samples: Samples) -> Array:
    """Of the daily means alone, which every file has."""
    names = samples.records.dynamic_names
    kept = [names.index(name) for name in _DAILY if name in names]
    daily = samples.records.select([names[place] for place in kept], samples.records.flux_names)
    fitted = QuadraticRidge.fit(daily, samples.split.training)
    return fitted.predict(samples.dynamic[..., kept])


def _networks(found: Collected, members: list[Tested], regression: Array) -> Iterator[Compared]:
    kind, point = members[0].kind, members[0].point
    name, config = point_name(point), found.config.at_point(point)
    hears = _EVE if config.network.autoregressive else "training"
    each = np.array([member.spread("nse").median for member in members])
    yield _seeds(kind, f"LSTM, {name}", hears, each)
    mean = np.mean([_predicted(found, member) for member in members], axis=0)
    method = f"LSTM, {name}"
    if len(members) > 1:
        method += f": mean of {len(members)} networks"
        yield _line(found, kind, method, hears, mean)
    both = (mean + regression) / 2
    yield _line(found, kind, f"{method}, and the last regression, half each", _EVE, both)
    if config.network.autoregressive:
        told = [stored(found.run, "teacher_forced", member.index)[_NSE] for member in members]
        medians = np.array([over_sites(scores).median for scores in told])
        yield _seeds(kind, f"LSTM, {name}: teacher-forced", "the day before", medians)


def _line(found: Collected, kind: str, method: str, hears: str, forecast: Array) -> Compared:
    medians = over_sites(nse(forecast, found.records.fluxes)).median
    return Compared(kind, method, hears, [Interval(float(value), np.nan) for value in medians])


def _seeds(kind: str, method: str, hears: str, each: Array) -> Compared:
    """A line of several networks, (seeds, F)."""
    return Compared(kind, method, hears, [over_seeds(column) for column in each.T])


def _predicted(found: Collected, member: Tested) -> Array:
    return np.asarray(stored(found.run, "predictions", member.index), np.float64)
