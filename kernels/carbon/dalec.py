"""DALEC-CDEA: six carbon pools of an ecosystem, stepped by days.

Sources: Williams et al. (2005), Glob. Change Biol. 11, 89-105; Bloom & Williams (2015),
appendix A, doi 10.5194/bg-12-1299-2015.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.carbon.canopy import CanopyDrivers, assimilation, canopy_drivers, day_length
from kernels.carbon.phenology import LABILE_LIFESPAN, seasonal_rate

Array = NDArray[np.float64]


class Parameters(NamedTuple):
    """Of each site, (B). Rates are per day, at zero degrees Celsius where they feel temperature.

    Attributes:
        respired: Fraction of GPP that plants respire, f_a.
        to_foliage: Fraction of NPP to foliage.
        to_labile: Fraction of what then remains to the labile pool.
        to_roots: Fraction of what then remains to fine roots; the rest is wood.
        leaf_lifespan: Years, above one.
        wood_turnover: d-1.
        root_turnover: d-1.
        litter_mineralization: d-1.
        soil_mineralization: d-1.
        decomposition: Of litter to soil organic matter, d-1.
        sensitivity: Theta in exp(Theta T), K-1.
        efficiency: Of the canopy, gC m-2 d-1 per unit of leaf area.
        onset_day: Day of the year of leaf onset.
        onset_length: Days.
        fall_day: Day of the year of leaf fall.
        fall_length: Days.
        leaf_mass: Leaf carbon per leaf area, gC m-2.
    """

    respired: Array
    to_foliage: Array
    to_labile: Array
    to_roots: Array
    leaf_lifespan: Array
    wood_turnover: Array
    root_turnover: Array
    litter_mineralization: Array
    soil_mineralization: Array
    decomposition: Array
    sensitivity: Array
    efficiency: Array
    onset_day: Array
    onset_length: Array
    fall_day: Array
    fall_length: Array
    leaf_mass: Array


class Forcing(NamedTuple):
    """What drives the model.

    Attributes:
        latitude: Degrees north, (B).
        day: Day of the year, (T).
        coldest: Minimum air temperature, degrees Celsius, (B, T).
        warmest: Maximum air temperature, (B, T).
        light: Global radiation, MJ m-2 d-1, (B, T).
        carbon_dioxide: ppm, (B, T).
    """

    latitude: Array
    day: Array
    coldest: Array
    warmest: Array
    light: Array
    carbon_dioxide: Array


class Pools(NamedTuple):
    """Carbon, gC m-2, of shape (B) at one time or (B, T + 1) along a simulation."""

    labile: Array
    foliage: Array
    roots: Array
    wood: Array
    litter: Array
    soil: Array

    def total(self) -> Array:
        """All carbon of the ecosystem."""
        return np.asarray(sum(self))


class Fluxes(NamedTuple):
    """Of each day, gC m-2 d-1, (B, T), and the leaf area index at its start.

    Attributes:
        gpp: Gross primary production.
        npp: Net primary production, (1 - f_a) GPP.
        nep: Net ecosystem production, NPP - Rh: positive where the ecosystem gains.
        rh: Heterotrophic respiration.
        leaf_area: m2 m-2.
    """

    gpp: Array
    npp: Array
    nep: Array
    rh: Array
    leaf_area: Array


class Rates(NamedTuple):
    """What the days bring, prepared for loops: (T, B), days first."""

    canopy: CanopyDrivers
    onset: Array
    fall: Array
    warmth: Array


def prepare(parameters: Parameters, forcing: Forcing) -> Rates:
    """Compute all that does not depend on the pools.

    Raises:
        ValueError: A pool would lose more in a day than it holds.
    """
    p, day = parameters, forcing.day[:, None]
    cold, warm, light, air = (np.ascontiguousarray(values.T) for values in forcing[2:])
    hours = day_length(forcing.latitude, day)
    rates = Rates(
        canopy_drivers(cold, warm, light, air, hours, p.efficiency),
        seasonal_rate(day, p.onset_day, p.onset_length, LABILE_LIFESPAN),
        seasonal_rate(day, p.fall_day, p.fall_length, p.leaf_lifespan),
        np.exp(p.sensitivity * (0.5 * (cold + warm))),
    )
    _check_losses(p, rates)
    return rates


def _check_losses(p: Parameters, rates: Rates) -> None:
    warmest = rates.warmth.max(axis=0)
    losses = {
        "labile": rates.onset.max(axis=0),
        "foliage": rates.fall.max(axis=0),
        "roots": p.root_turnover,
        "wood": p.wood_turnover,
        "litter": warmest * (p.litter_mineralization + p.decomposition),
        "soil": warmest * p.soil_mineralization,
    }
    for pool, loss in losses.items():
        if not (loss <= 1).all():
            site = int(np.argmax(~(loss <= 1)))
            raise ValueError(
                f"site {site}: the {pool} pool would lose {loss[site]:.3g} of itself in one day, "
                "expected at most 1; check temperatures (degrees Celsius) and rates (per day)"
            )


def grow_canopy(
    parameters: Parameters, rates: Rates, labile: Array, foliage: Array
) -> tuple[Array, Array, Array]:
    """Step the two pools on which photosynthesis depends.

    Returns:
        GPP (T, B), and labile and foliar carbon (T + 1, B).
    """
    p, days = parameters, len(rates.onset)
    gpp = np.empty((days, len(labile)))
    pools = np.empty((2, days + 1, len(labile)))
    pools[:, 0] = labile, foliage
    to_foliage = (1 - p.respired) * p.to_foliage
    to_labile = (1 - p.respired) * (1 - p.to_foliage) * p.to_labile
    for t in range(days):
        labile, foliage = pools[:, t]
        gpp[t] = assimilation(foliage / p.leaf_mass, rates.canopy.at(t))
        released = labile * rates.onset[t]
        pools[0, t + 1] = labile + (to_labile * gpp[t] - released)
        pools[1, t + 1] = foliage + (to_foliage * gpp[t] + released - foliage * rates.fall[t])
    return gpp, pools[0], pools[1]


class Flow(NamedTuple):
    """A linear pool: each day it gains ``gain`` and loses the fraction ``loss``, both (T, B)."""

    gain: Array
    loss: Array

    def run(self, start: Array) -> Array:
        """Step a pool, (B) to (T + 1, B)."""
        pool = np.empty((len(self.gain) + 1, len(start)))
        pool[0] = start
        for t in range(len(self.gain)):
            pool[t + 1] = pool[t] + (self.gain[t] - self.loss[t] * pool[t])
        return pool


def structural_flows(parameters: Parameters, rates: Rates, gpp: Array) -> tuple[Flow, Flow]:
    """How roots and wood gain and lose, given photosynthesis (T, B)."""
    p = parameters
    rest = (1 - p.respired) * (1 - p.to_foliage) * (1 - p.to_labile) * gpp
    roots = Flow(p.to_roots * rest, np.broadcast_to(p.root_turnover, gpp.shape))
    wood = Flow((1 - p.to_roots) * rest, np.broadcast_to(p.wood_turnover, gpp.shape))
    return roots, wood


def litter_flow(parameters: Parameters, rates: Rates, foliage: Array, roots: Array) -> Flow:
    """How litter gains and loses, given the pools that shed it, (T + 1, B)."""
    p = parameters
    shed = rates.fall * foliage[:-1] + p.root_turnover * roots[:-1]
    return Flow(shed, rates.warmth * (p.litter_mineralization + p.decomposition))


def soil_flow(parameters: Parameters, rates: Rates, wood: Array, litter: Array) -> Flow:
    """How soil organic matter gains and loses, given the pools that feed it, (T + 1, B)."""
    p = parameters
    gain = p.wood_turnover * wood[:-1] + p.decomposition * rates.warmth * litter[:-1]
    return Flow(gain, rates.warmth * p.soil_mineralization)


def simulate(parameters: Parameters, pools: Pools, forcing: Forcing) -> tuple[Fluxes, Pools]:
    r"""Run the model over the days of a forcing.

    The laws, to rounding: :math:`NPP = (1 - f_a) GPP`, :math:`NEP = NPP - R_h`, the change of all
    pools is NEP, GPP, Rh and pools are not negative, GPP is zero in the dark, and
    :math:`R_h \propto e^{\Theta T}` at given pools.

    Args:
        parameters: Of each site, (B).
        pools: At the start of the first day, (B).
        forcing: Of each site and day.

    Returns:
        The fluxes (B, T), and the pools at the start of each day and after the last, (B, T + 1).

    Raises:
        ValueError: A pool would lose more in a day than it holds.
    """
    p, rates = parameters, prepare(parameters, forcing)
    gpp, labile, foliage = grow_canopy(p, rates, pools.labile, pools.foliage)
    root_flow, wood_flow = structural_flows(p, rates, gpp)
    roots, wood = root_flow.run(pools.roots), wood_flow.run(pools.wood)
    litter = litter_flow(p, rates, foliage, roots).run(pools.litter)
    soil = soil_flow(p, rates, wood, litter).run(pools.soil)
    mineralized = p.litter_mineralization * litter[:-1] + p.soil_mineralization * soil[:-1]
    npp, rh = (1 - p.respired) * gpp, rates.warmth * mineralized
    fluxes = Fluxes(gpp, npp, npp - rh, rh, foliage[:-1] / p.leaf_mass)
    along = Pools(labile, foliage, roots, wood, litter, soil)
    return (
        Fluxes(*(np.ascontiguousarray(values.T) for values in fluxes)),
        Pools(*(np.ascontiguousarray(values.T) for values in along)),
    )
