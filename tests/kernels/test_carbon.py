"""DALEC-CDEA and ACM against the papers' equations, written out one number at a time."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.carbon import (
    Climate,
    Fluxes,
    Forcing,
    Parameters,
    Pools,
    day_length,
    equilibrium,
    extraterrestrial_radiation,
    generate_weather,
    photosynthesis,
    simulate,
)
from kernels.carbon.phenology import seasonal_rate

Array = NDArray[np.float64]
DAYS = 730
BOUNDS: dict[str, tuple[float, float]] = {
    "respired": (0.3, 0.7),
    "to_foliage": (0.01, 0.5),
    "to_labile": (0.01, 0.5),
    "to_roots": (0.01, 0.99),
    "leaf_lifespan": (1.001, 8),
    "wood_turnover": (2.5e-5, 1e-3),
    "root_turnover": (1e-4, 1e-2),
    "litter_mineralization": (1e-4, 1e-2),
    "soil_mineralization": (1e-7, 1e-3),
    "decomposition": (1e-5, 1e-2),
    "sensitivity": (0.018, 0.08),
    "efficiency": (5, 50),
    "onset_day": (1, 365),
    "onset_length": (10, 100),
    "fall_day": (1, 365),
    "fall_length": (20, 150),
    "leaf_mass": (5, 200),
}


def sites(seed: int, count: int) -> tuple[Parameters, Pools, Forcing]:
    """Sites anywhere in the ranges of Bloom & Williams (2015), under rough weather."""
    rng = np.random.default_rng(seed)
    drawn = {name: rng.uniform(low, high, count) for name, (low, high) in BOUNDS.items()}
    pools = Pools(*(10 ** rng.uniform(0, top, count) for top in (3.3, 3.3, 3.3, 5, 3.3, 5.3)))
    coldest = rng.normal(8, 10, (count, DAYS)).clip(-40, 30)
    forcing = Forcing(
        latitude=rng.uniform(-80, 80, count),
        day=np.arange(1.0, DAYS + 1) % 366,
        coldest=coldest,
        warmest=coldest + rng.uniform(0, 12, (count, DAYS)),
        light=rng.uniform(0, 30, (count, DAYS)) * (rng.random((count, DAYS)) > 0.2),
        carbon_dioxide=rng.uniform(280, 600, (count, DAYS)),
    )
    return Parameters(**drawn), pools, forcing


def one_day(p: dict[str, float], c: dict[str, float], w: dict[str, float]) -> dict[str, float]:
    """Appendix A of the paper for one site and day, in its own form; returns fluxes and pools."""
    leaf_area = c["foliage"] / p["leaf_mass"]
    declination = -23.4 * math.pi / 180 * math.cos(2 * math.pi * (w["day"] + 10) / 365)
    mult = math.tan(math.radians(w["latitude"])) * math.tan(declination)
    hours = 24 * math.acos(-max(-1.0, min(1.0, mult))) / math.pi
    conductance = 2**0.789798 / (0.37836 + 0.5 * (w["warmest"] - w["coldest"]))
    demand = leaf_area * p["efficiency"] * math.exp(0.011136 * w["warmest"]) / conductance
    air, q = w["carbon_dioxide"], 4.22273 - 208.868
    root = math.sqrt((air + q - demand) ** 2 - 4 * (air * q - demand * 4.22273))
    inside = 0.5 * (air + q - demand + root)
    light = 7.19298 * leaf_area**2 / (leaf_area**2 + 2.1001) * w["light"]
    supply = conductance * (air - inside)
    gpp = light * supply / (light + supply) * (0.0156935 * hours + 0.0453194) if light else 0.0
    warmth = math.exp(p["sensitivity"] * 0.5 * (w["warmest"] + w["coldest"]))
    npp = gpp - p["respired"] * gpp
    leaves = npp * p["to_foliage"]
    labile = (npp - leaves) * p["to_labile"]
    roots = (npp - leaves - labile) * p["to_roots"]
    wood = npp - leaves - labile - roots
    onset = c["labile"] * season(w["day"], p["onset_day"], p["onset_length"], 1.001)
    fall = c["foliage"] * season(w["day"], p["fall_day"], p["fall_length"], p["leaf_lifespan"])
    dead_roots, dead_wood = c["roots"] * p["root_turnover"], c["wood"] * p["wood_turnover"]
    from_litter = c["litter"] * p["litter_mineralization"] * warmth
    from_soil = c["soil"] * p["soil_mineralization"] * warmth
    decomposed = c["litter"] * p["decomposition"] * warmth
    return {
        "gpp": gpp,
        "rh": from_litter + from_soil,
        "labile": c["labile"] + labile - onset,
        "foliage": c["foliage"] + leaves + onset - fall,
        "roots": c["roots"] + roots - dead_roots,
        "wood": c["wood"] + wood - dead_wood,
        "litter": c["litter"] + fall + dead_roots - from_litter - decomposed,
        "soil": c["soil"] + dead_wood + decomposed - from_soil,
    }


def season(day: float, peak: float, length: float, lifespan: float) -> float:
    """Leaf onset and fall in the form of the published appendix."""
    f = (math.log(lifespan) - math.log(lifespan - 1)) / 2
    w = math.sqrt(2) * length / 2
    x = math.log(lifespan - 1)
    powers = (-0.188459767342504, 0.126972018064287, -0.020836027517787, -0.005437736864888,
              0.000901865258885, 0.000332730053021, 0.000023599784710)  # fmt: skip
    offset = w * sum(factor * x**k for k, factor in enumerate(powers))
    s = 365.25 / math.pi
    return (
        2
        / math.sqrt(math.pi)
        * f
        / w
        * math.exp(-((math.sin((day - peak + offset) / s) * s / w) ** 2))
    )


def row(values: Any, site: int) -> dict[str, float]:
    return {name: float(column[site]) for name, column in values._asdict().items()}


def test_the_model_is_that_of_the_paper_day_by_day() -> None:
    parameters, start, forcing = sites(3, 6)
    fluxes, pools = simulate(parameters, start, forcing)
    for site in range(6):
        carbon = row(start, site)
        for t in range(DAYS):
            weather = {name: float(getattr(forcing, name)[site, t]) for name in Forcing._fields[2:]}
            weather |= {"day": float(forcing.day[t]), "latitude": float(forcing.latitude[site])}
            carbon = one_day(row(parameters, site), carbon, weather)
            assert fluxes.gpp[site, t] == pytest.approx(carbon["gpp"], rel=1e-9, abs=1e-11)
            assert fluxes.rh[site, t] == pytest.approx(carbon["rh"], rel=1e-9)
        for name in Pools._fields:
            assert getattr(pools, name)[site, -1] == pytest.approx(carbon[name], rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_carbon_is_neither_made_nor_lost_nor_negative(seed: int) -> None:
    parameters, start, forcing = sites(seed, 5)
    fluxes, pools = simulate(parameters, start, forcing)
    np.testing.assert_array_equal(fluxes.npp, (1 - parameters.respired)[:, None] * fluxes.gpp)
    np.testing.assert_array_equal(fluxes.nep, fluxes.npp - fluxes.rh)
    total = pools.total()
    np.testing.assert_allclose(np.diff(total, axis=1), fluxes.nep, rtol=0, atol=1e-9)
    gained = total[:, -1] - total[:, 0]
    np.testing.assert_allclose(gained, fluxes.nep.sum(axis=1), rtol=0, atol=1e-9)
    assert min(values.min() for values in (fluxes.gpp, fluxes.rh, *pools)) >= 0
    assert (fluxes.gpp[forcing.light == 0] == 0).all()


def test_respiration_of_the_soil_is_exponential_in_temperature() -> None:
    parameters, start, forcing = sites(4, 20)
    first: list[Fluxes] = []
    for warming in (0.0, 3.0):
        warmer = forcing._replace(
            coldest=forcing.coldest + warming, warmest=forcing.warmest + warming
        )
        first.append(simulate(parameters, start, warmer)[0])
    ratio = first[1].rh[:, 0] / first[0].rh[:, 0]
    np.testing.assert_allclose(ratio, np.exp(3.0 * parameters.sensitivity), rtol=1e-12)


def test_a_site_is_the_same_in_any_company() -> None:
    parameters, start, forcing = sites(5, 13)
    together = simulate(parameters, start, forcing)
    for few in ([7], [12, 0], [3, 4, 5, 6, 7]):
        alone = simulate(
            Parameters(*(values[few] for values in parameters)),
            Pools(*(values[few] for values in start)),
            Forcing(forcing.latitude[few], forcing.day, *(v[few] for v in forcing[2:])),
        )
        for mine, all_of_them in zip(
            (*alone[0], *alone[1]), (*together[0], *together[1]), strict=True
        ):
            np.testing.assert_array_equal(mine, all_of_them[few])


def test_equilibrium_comes_back_to_itself() -> None:
    parameters, _, forcing = sites(6, 8)
    year = Forcing(forcing.latitude, forcing.day[:365], *(v[:, :365] for v in forcing[2:]))
    parameters = parameters._replace(leaf_lifespan=1 + parameters.leaf_lifespan / 8)
    start = equilibrium(parameters, year, cycles=40, leaf_area=3.0)
    fluxes, pools = simulate(parameters, start, year)
    for name in Pools._fields:
        along = getattr(pools, name)
        np.testing.assert_allclose(along[:, -1], along[:, 0], rtol=1e-6, atol=1e-6)
    assert (np.abs(fluxes.nep.sum(axis=1)) < 1e-5).all()


def test_a_pool_that_would_lose_more_than_it_has_is_refused() -> None:
    parameters, start, forcing = sites(7, 3)
    kelvin = forcing._replace(coldest=forcing.coldest + 273.15, warmest=forcing.warmest + 273.15)
    with pytest.raises(ValueError, match=r"litter pool would lose .* check temperatures"):
        simulate(parameters, start, kelvin)


def test_photosynthesis_grows_with_light_and_carbon_dioxide_and_saturates() -> None:
    def gpp(light: Array, air: Array) -> Array:
        one = np.ones_like(light)
        return photosynthesis(3 * one, 8 * one, 18 * one, light, air, 14 * one, 20 * one)

    more = np.linspace(0, 40, 50)
    by_light, by_air = gpp(more, np.full(50, 400.0)), gpp(np.full(50, 15.0), 300 + 10 * more)
    for rising in (by_light, by_air):
        assert (np.diff(rising) > 0).all()
        assert (np.diff(rising, 2) < 0).all()
    assert by_light[0] == 0


def test_days_are_as_long_as_the_sun_makes_them() -> None:
    latitudes = np.array([0.0, 45.0, -45.0, 75.0, -75.0])
    june = day_length(latitudes, 172.0)
    np.testing.assert_allclose(june[:3], [12, 15.4, 8.6], atol=0.1)
    np.testing.assert_array_equal(june[3:], [24, 0])
    np.testing.assert_allclose(day_length(latitudes, 80.0), 12, atol=0.3)
    # FAO-56, example 8: 3 September at 20 degrees south.
    assert extraterrestrial_radiation(-20.0, 246.0) == pytest.approx(32.2, abs=0.05)
    assert extraterrestrial_radiation(-75.0, 172.0) == 0


def test_a_season_empties_the_share_that_its_lifespan_says() -> None:
    day = np.arange(365.25 * 4, step=0.25)
    for lifespan in (1.001, 1.5, 4.0):
        rate = seasonal_rate(day, np.array(200.0), np.array(30.0), lifespan)
        assert np.exp(-rate.sum() / 4 / 4) == pytest.approx(1 - 1 / lifespan, rel=0.07)


def test_weather_has_seasons_and_memory_and_is_physical() -> None:
    count, days = 40, 1461
    rng = np.random.default_rng(0)
    climate = Climate(*(np.full(count, v) for v in (50.0, 8.0, 10.0, 9.0, 3.0, 0.8, 0.5, 2.0)))
    day = np.arange(1.0, days + 1) % 365.25
    weather = generate_weather(
        climate, day, 2001 + np.arange(days) / 365.25, rng.standard_normal((count, 3, days))
    )
    mean = 0.5 * (weather.coldest + weather.warmest)
    season = 8 + 10 * np.cos(2 * np.pi * (day - 201) / 365.25)
    anomaly = mean - season
    assert anomaly.std() == pytest.approx(3.0, rel=0.1)
    assert abs(anomaly.mean()) < 0.2
    lagged = np.corrcoef(anomaly[:, 1:].ravel(), anomaly[:, :-1].ravel())[0, 1]
    assert 0.65 < lagged < 0.8
    assert (weather.warmest > weather.coldest).all()
    assert (weather.vapor_deficit > 0).all()
    top = extraterrestrial_radiation(50.0, day)
    assert ((weather.light >= 0.25 * top) & (weather.light <= 0.75 * top)).all()
