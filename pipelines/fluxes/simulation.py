"""Sites of the process model: properties, weather, spin-up, and the record."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.carbon import (
    Fluxes,
    Forcing,
    Pools,
    Weather,
    equilibrium,
    generate_weather,
    simulate,
)
from kernels.carbon.weather import SHOCKS
from pipelines.fluxes.properties import PARAMETERS, Properties, draw_properties, draw_shocks
from pipelines.fluxes.records import Days, FluxError, FluxRecords, day_of_year, decimal_year, season

Array = NDArray[np.float64]

DYNAMIC = {
    "temperature_min": "degC",
    "temperature_max": "degC",
    "radiation": "MJ m-2 d-1",
    "vapor_deficit": "hPa",
    "carbon_dioxide": "ppm",
    "season_sine": "1",
    "season_cosine": "1",
}
FLUXES = ("gpp", "npp", "nep", "rh")
# Of the site, and what an inventory of it would find on the first day.
_PLACE = ("latitude", "temperature", "seasonality", "diurnal", "sunshine", "dryness")
_TIMES = ("onset_day", "fall_day")
STATIC = (
    *_PLACE,
    *(f"log_{name}" if prior.logarithmic else name for name, prior in PARAMETERS.items()
      if name not in _TIMES),
    *(f"{name}_{part}" for name in _TIMES for part in ("sine", "cosine")),
    *(f"log_{name}" for name in Pools._fields),
)  # fmt: skip

# Three times the longest leaf lifespan: what a canopy started from is forgotten.
_SPINUP_YEARS = 12
_FIRST_LEAF_AREA = 3.0
# Sites outside are drawn again: deserts without leaves, and canopies that no forest has.
_GPP_RANGE = (150.0, 4000.0)
_LEAF_AREA_RANGE = (0.2, 10.0)
_DRAWS = 60


@dataclass(frozen=True)
class SiteRun:
    """Which sites to simulate.

    Args:
        seed: Of all random numbers.
        sites: How many there are.
        years: Calendar years of each record.
        first_year: The first of them.

    Raises:
        FluxError: A number is out of range.
    """

    seed: int
    sites: int
    years: int
    first_year: int = 2001

    def __post_init__(self) -> None:
        if self.sites < 1 or self.years < 1 or not 1900 <= self.first_year <= 2100:
            raise FluxError(f"expected sites and years above 0, and a year of our time, got {self}")

    @property
    def days(self) -> Days:
        """The calendar days of the record."""
        start = np.datetime64(f"{self.first_year}-01-01")
        return np.arange(start, np.datetime64(f"{self.first_year + self.years}-01-01"))


@dataclass(frozen=True)
class SimulatedSites:
    """What a simulation gives: records, and what lies behind them.

    Attributes:
        records: As a model is trained on them.
        pools: Carbon at the start of each day and after the last, gC m-2, (S, T + 1, 6).
        properties: Of the sites.
        draws: Which draw of its properties each site took, (S).
    """

    records: FluxRecords
    pools: Array
    properties: Properties
    draws: NDArray[np.int64]


def simulate_sites(run: SiteRun, sites: Sequence[int]) -> SimulatedSites:
    """Simulate some sites of a run; each comes out the same, to the bit, in any company.

    Raises:
        FluxError: A site is not of the run, or no draw of it can live.
    """
    if not sites or not all(0 <= site < run.sites for site in sites):
        raise FluxError(f"expected sites of 0 to {run.sites - 1}, got {list(sites)[:5]}")
    draws, weather, fluxes, pools = _simulate_living(run, np.asarray(sites))
    properties = draw_properties(run.seed, sites, draws.tolist())
    records = FluxRecords(
        sites=tuple(f"site-{site:05d}" for site in sites),
        days=run.days,
        dynamic=_dynamic(run.days, weather),
        static=_static(properties, pools[:, 0]),
        fluxes=fluxes[..., [Fluxes._fields.index(name) for name in FLUXES]],
        dynamic_names=tuple(DYNAMIC),
        static_names=STATIC,
        flux_names=FLUXES,
    )
    return SimulatedSites(records, pools, properties, draws)


def _simulate_living(
    run: SiteRun, sites: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """The number of each site's first draw that lives, and its weather, fluxes and pools."""
    days = len(run.days)
    shocks = np.stack([draw_shocks(run.seed, site, SHOCKS, days) for site in sites.tolist()])
    draws = np.zeros(len(sites), np.int64)
    shapes = (
        (days, len(Weather._fields)),
        (days, len(Fluxes._fields)),
        (days + 1, len(Pools._fields)),
    )
    results = [np.empty((len(sites), *shape)) for shape in shapes]
    waiting = np.arange(len(sites))
    while waiting.size:
        properties = draw_properties(run.seed, sites[waiting].tolist(), draws[waiting].tolist())
        weather, fluxes, pools = _simulate(run, properties, shocks[waiting])
        lives = _lives(fluxes)
        for result, made in zip(results, (weather, fluxes, pools), strict=True):
            result[waiting[lives]] = np.stack(made, axis=-1)[lives]
        waiting = waiting[~lives]
        draws[waiting] += 1
        if (draws >= _DRAWS).any():
            raise FluxError(f"site {sites[int(np.argmax(draws))]}: {_DRAWS} draws, none can live")
    return (draws, results[0], results[1], results[2])


def _lives(fluxes: Fluxes) -> NDArray[np.bool_]:
    gpp, leaf_area = 365.25 * fluxes.gpp.mean(axis=1), fluxes.leaf_area.max(axis=1)
    inside = (gpp >= _GPP_RANGE[0]) & (gpp <= _GPP_RANGE[1])
    return np.asarray(
        inside & (leaf_area >= _LEAF_AREA_RANGE[0]) & (leaf_area <= _LEAF_AREA_RANGE[1])
    )


def _simulate(run: SiteRun, properties: Properties, shocks: Array) -> tuple[Weather, Fluxes, Pools]:
    """Weather, spin-up under that weather, what history left of it, and the record."""
    day = day_of_year(run.days)
    weather = generate_weather(properties.climate, day, decimal_year(run.days), shocks)
    forcing = Forcing(
        properties.climate.latitude,
        day,
        weather.coldest,
        weather.warmest,
        weather.light,
        weather.carbon_dioxide,
    )
    cycles = -(-_SPINUP_YEARS // run.years)
    pools = equilibrium(properties.parameters, forcing, cycles, _FIRST_LEAF_AREA)
    start = pools._replace(
        wood=properties.wood_legacy * pools.wood, soil=properties.soil_legacy * pools.soil
    )
    return (weather, *simulate(properties.parameters, start, forcing))


def _dynamic(days: Days, weather: Array) -> Array:
    phase = np.broadcast_to(season(days), (*weather.shape[:2], 2))
    return np.concatenate([weather, phase], axis=-1)


def _static(properties: Properties, pools: Array) -> Array:
    """The properties by the names of ``STATIC``; where ranges are wide, as logarithms."""
    found: dict[str, Array] = properties.climate._asdict()
    for name, values in properties.parameters._asdict().items():
        angle = 2 * np.pi * values / 365.25
        found |= {name: values, f"{name}_sine": np.sin(angle), f"{name}_cosine": np.cos(angle)}
        found[f"log_{name}"] = np.log(values)
    found |= {f"log_{name}": np.log(pools[:, i]) for i, name in enumerate(Pools._fields)}
    return np.stack([found[name] for name in STATIC], axis=-1)
