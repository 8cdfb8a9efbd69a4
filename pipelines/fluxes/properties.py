"""What a site is: climate, parameters of the carbon model, and history, drawn from priors.

Every site has its own stream of random numbers, keyed by seed, site and draw. So site 17 is the
same in a run of 20 sites and of 20,000, in any shard, and on any day that it is made again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.carbon import Climate, Parameters
from pipelines.seeds import derived_seed

Array = NDArray[np.float64]


class Prior(NamedTuple):
    """A range, uniform in the value or in its logarithm."""

    low: float
    high: float
    logarithmic: bool = False

    def at(self, share: Array) -> Array:
        """The value that a share of the prior's mass lies below."""
        if self.logarithmic:
            return np.asarray(self.low * (self.high / self.low) ** share)
        return self.low + (self.high - self.low) * share


# Inside the ranges of Bloom & Williams (2015), table 2, without their corners, in which a canopy
# dies or soil takes 10,000 years. Days are of the northern hemisphere, and leaf mass is that of a
# leaf that lives for a year: it grows with lifespan, to at most 200 gC m-2.
PARAMETERS = {
    "respired": Prior(0.35, 0.65),
    "to_foliage": Prior(0.03, 0.12),
    "to_labile": Prior(0.03, 0.2),
    "to_roots": Prior(0.15, 0.5),
    "leaf_lifespan": Prior(1.05, 4.0),
    "wood_turnover": Prior(4e-5, 4e-4, True),
    "root_turnover": Prior(1e-3, 1e-2, True),
    "litter_mineralization": Prior(1e-3, 1e-2, True),
    "soil_mineralization": Prior(3e-5, 4e-4, True),
    "decomposition": Prior(1e-4, 5e-3, True),
    "sensitivity": Prior(0.018, 0.08),
    "efficiency": Prior(10.0, 30.0),
    "onset_day": Prior(60.0, 150.0),
    "onset_length": Prior(15.0, 80.0),
    "fall_day": Prior(240.0, 330.0),
    "fall_length": Prior(30.0, 120.0),
    "leaf_mass": Prior(45.0, 85.0, True),
}
# Ours. Temperature and seasonality are anomalies around what the latitude makes likely.
CLIMATE = {
    "latitude": Prior(-50.0, 68.0),
    "temperature": Prior(-4.0, 4.0),
    "seasonality": Prior(0.7, 1.3),
    "diurnal": Prior(6.0, 14.0),
    "variability": Prior(1.5, 4.5),
    "persistence": Prior(0.6, 0.85),
    "sunshine": Prior(0.3, 0.7),
    "dryness": Prior(0.5, 6.0),
}
# Wood and soil as a share of their equilibrium: disturbance long ago is why sites gain or lose.
HISTORY = {"wood_legacy": Prior(0.5, 1.0), "soil_legacy": Prior(0.8, 1.1)}


class Properties(NamedTuple):
    """Of each site, (B)."""

    climate: Climate
    parameters: Parameters
    wood_legacy: Array
    soil_legacy: Array


def draw_properties(seed: int, sites: Sequence[int], draws: Sequence[int]) -> Properties:
    """Draw what sites are.

    Args:
        seed: Of the run.
        sites: Numbers of the sites.
        draws: For each site, which of its draws: above zero where earlier ones were rejected.
    """
    priors = CLIMATE | PARAMETERS | HISTORY
    shares = np.stack([_shares(seed, *pair) for pair in zip(sites, draws, strict=True)], axis=1)
    values = {name: priors[name].at(share) for name, share in zip(priors, shares, strict=True)}
    climate = _placed(Climate(**{name: values[name] for name in CLIMATE}))
    parameters = Parameters(**{name: values[name] for name in PARAMETERS})
    # South of the equator leaves come and go half a year later.
    half = np.where(climate.latitude < 0, 365.25 / 2, 0.0)
    parameters = parameters._replace(
        onset_day=(parameters.onset_day + half) % 365.25,
        fall_day=(parameters.fall_day + half) % 365.25,
        # Leaves that live longer are thicker (Wright et al. 2004, Nature 428, 821-827).
        leaf_mass=parameters.leaf_mass * parameters.leaf_lifespan**0.6,
    )
    return Properties(climate, parameters, values["wood_legacy"], values["soil_legacy"])


def draw_shocks(seed: int, site: int, kinds: int, days: int) -> Array:
    """Standard normal numbers of a site's weather, (kinds, days); a longer run begins alike."""
    return np.ascontiguousarray(_stream(seed, site, "weather").standard_normal((days, kinds)).T)


def _shares(seed: int, site: int, draw: int) -> Array:
    count = len(CLIMATE) + len(PARAMETERS) + len(HISTORY)
    return _stream(seed, site, f"properties-{draw}").random(count)


def _stream(seed: int, site: int, purpose: str) -> np.random.Generator:
    """A counter-based stream, which nothing but its key decides."""
    return np.random.Generator(np.random.Philox(key=derived_seed(seed, "site", site, purpose)))


def _placed(climate: Climate) -> Climate:
    """Add what the latitude makes likely: colder and more seasonal towards the poles."""
    away = np.abs(climate.latitude)
    return climate._replace(
        temperature=24 - 0.4 * np.maximum(away - 10, 0) + climate.temperature,
        seasonality=(1 + 0.2 * away) * climate.seasonality,
    )
