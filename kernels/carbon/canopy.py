"""ACM, the aggregated canopy model: daily photosynthesis of a whole canopy.

Sources: Williams et al. (1997), Ecol. Appl. 7, 882-894; Williams et al. (2005), Glob. Change
Biol. 11, 89-105; coefficients as in Bloom & Williams (2015), doi 10.5194/bg-12-1299-2015.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# a_2 ... a_10 of the papers; a_1 is the site's canopy efficiency.
_DAY_SLOPE = 0.0156935
_COMPENSATION = 4.22273
_HALF_SATURATION = 208.868
_DAY_INTERCEPT = 0.0453194
_RESISTANCE = 0.37836
_QUANTUM_YIELD = 7.19298
_TEMPERATURE = 0.011136
_LEAF_AREA = 2.1001
_POTENTIAL = 0.789798
# Soil-to-leaf water potential difference (MPa) and total hydraulic resistance, as DALEC sets them.
_WATER_POTENTIAL = -2.0
_HYDRAULIC = 1.0
_TINY = np.finfo(np.float64).tiny


def declination(day: ArrayLike) -> Array:
    """Declination of the sun in radians, as ACM has it, from the day of the year (1 to 366)."""
    angle = 2 * np.pi * (np.asarray(day, np.float64) + 10) / 365
    return np.asarray(-np.deg2rad(23.4) * np.cos(angle))


def day_length(latitude: ArrayLike, day: ArrayLike) -> Array:
    r"""Hours of daylight, :math:`\frac{24}{\pi}\arccos(-\tan\varphi\tan\delta)`.

    Args:
        latitude: In degrees north; broadcast against ``day``.
        day: Day of the year, 1 to 366.

    Returns:
        Hours, 0 in the polar night and 24 in the polar day.
    """
    slope = np.tan(np.deg2rad(latitude)) * np.tan(declination(day))
    return np.asarray(24 / np.pi * np.arccos(-np.clip(slope, -1, 1)))


class CanopyDrivers(NamedTuple):
    """All of ACM that does not depend on leaf area, so that a loop over days need not repeat it.

    Attributes:
        light: Radiation, MJ m-2 d-1.
        conductance: Of the canopy, gC m-2 d-1 ppm-1.
        capacity: Metabolic capacity over conductance, ppm per unit of leaf area.
        carbon_dioxide: Of the air, ppm.
        daylight: Factor for the length of the day.
    """

    light: Array
    conductance: Array
    capacity: Array
    carbon_dioxide: Array
    daylight: Array

    def at(self, step: int) -> "CanopyDrivers":
        """The drivers of one day, where days are the first axis."""
        return CanopyDrivers(*(values[step] for values in self))


def canopy_drivers(
    coldest: Array,
    warmest: Array,
    light: Array,
    carbon_dioxide: Array,
    hours: Array,
    efficiency: Any,
) -> CanopyDrivers:
    """Compute :class:`CanopyDrivers`; arguments as in :func:`photosynthesis`."""
    potential = abs(_WATER_POTENTIAL) ** _POTENTIAL
    conductance = potential / (_RESISTANCE * _HYDRAULIC + 0.5 * (warmest - coldest))
    capacity = efficiency * np.exp(_TEMPERATURE * warmest) / conductance
    daylight = _DAY_SLOPE * hours + _DAY_INTERCEPT
    return CanopyDrivers(light, conductance, capacity, carbon_dioxide, daylight)


def assimilation(leaf_area: Array, drivers: CanopyDrivers) -> Array:
    r"""GPP (gC m-2 d-1) of a leaf area index under prepared drivers.

    ACM solves a quadratic for the carbon dioxide inside the leaf, :math:`c_i`. Here it is solved
    for the drawdown :math:`x = c_a - c_i`, in the form without cancellation,

    .. math:: x = \frac{2 p (c_a - \theta)}{b + \sqrt{b^2 - 4 p (c_a - \theta)}},
        \quad b = c_a + k - \theta + p,

    so that no rounding makes photosynthesis negative.
    """
    demand = leaf_area * drivers.capacity
    product = demand * (drivers.carbon_dioxide - _COMPENSATION)
    b = drivers.carbon_dioxide + (_HALF_SATURATION - _COMPENSATION) + demand
    drawdown = 2 * product / (b + np.sqrt(b * b - 4 * product))
    diffusion = drivers.conductance * drawdown
    square = leaf_area * leaf_area
    absorbed = _QUANTUM_YIELD * square / (square + _LEAF_AREA) * drivers.light
    # Both are zero in a bare canopy in the dark, where there is no photosynthesis.
    rate = absorbed * diffusion / (absorbed + diffusion + _TINY)
    return np.asarray(rate * drivers.daylight)


def photosynthesis(
    leaf_area: Array,
    coldest: Array,
    warmest: Array,
    light: Array,
    carbon_dioxide: Array,
    hours: Array,
    efficiency: Array,
) -> Array:
    """Gross primary production of a canopy in one day, after ACM; arguments are broadcast.

    Args:
        leaf_area: Leaf area index, m2 m-2, not negative.
        coldest: Minimum air temperature, degrees Celsius.
        warmest: Maximum air temperature, not below ``coldest``.
        light: Global radiation, MJ m-2 d-1, not negative.
        carbon_dioxide: Of the air, ppm, above the compensation point of 4.2 ppm.
        hours: Length of the day, from :func:`day_length`.
        efficiency: Canopy efficiency :math:`c_{eff}`, gC m-2 d-1 per unit of leaf area.

    Returns:
        GPP, gC m-2 d-1, not negative, zero in the dark.
    """
    drivers = canopy_drivers(coldest, warmest, light, carbon_dioxide, hours, efficiency)
    return assimilation(leaf_area, drivers)
