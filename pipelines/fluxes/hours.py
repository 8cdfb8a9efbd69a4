"""What the hours of a day tell of its fluxes that its means do not.

Photosynthesis saturates with light and respiration grows faster than temperature, so the mean of
the response is not the response to the mean.
"""

import numpy as np

from pipelines.fluxes.tables import Array

# W m-2: half saturation of leaves in the sun and of a canopy, and what counts as day.
_SATURATION = {"light_100": 100.0, "light_300": 300.0}
_CANOPY = 300.0
_DAYLIGHT = 20.0
# hPa by which dry air closes stomata to 1/e, and degrees Celsius over which a canopy wakes up.
_DRY = 10.0
_DORMANT, _AWAKE = -5.0, 15.0


def hourly_responses(
    temperature: Array, radiation: Array, vapor_deficit: Array
) -> dict[str, Array]:
    r"""Daily means of responses to the weather of each hour, by name, (days) each.

    ``light_k`` is the mean of :math:`R / (R + k)`; ``light_dry`` and ``light_warm`` are the same at
    k = 300, times :math:`e^{-D / 10}` and a ramp from -5 to 15 degrees; ``respiration`` is the
    response of Lloyd & Taylor (1994, doi:10.2307/2389824), 1 at 10 degrees; ``frost`` is the share
    of hours below zero; the others are means by day and by night.

    Args:
        temperature: Degrees Celsius, (days, steps).
        radiation: W m-2.
        vapor_deficit: hPa.

    Returns:
        NaN on days with a gap in what is needed.
    """
    sun = np.maximum(radiation, 0.0)
    light = {name: sun / (sun + half) for name, half in _SATURATION.items()}
    canopy = sun / (sun + _CANOPY)
    dry = np.exp(-np.maximum(vapor_deficit, 0.0) / _DRY)
    warm = np.clip((temperature - _DORMANT) / (_AWAKE - _DORMANT), 0.0, 1.0)
    # Below -30 degrees nothing respires, and the formula has a pole at -46.
    kelvin = np.maximum(temperature, -30.0) + 46.02
    each = light | {
        "light_dry": canopy * dry,
        "light_warm": canopy * warm,
        "respiration": np.exp(308.56 * (1 / 56.02 - 1 / kelvin)),
        "frost": np.where(np.isnan(temperature), np.nan, temperature < 0.0),
    }
    day = np.where(np.isnan(sun), np.nan, sun > _DAYLIGHT)
    found = {name: values.mean(axis=1) for name, values in each.items()}
    return found | {
        "temperature_day": _mean_within(temperature, day),
        "temperature_night": _mean_within(temperature, 1 - day),
        "vapor_deficit_day": _mean_within(vapor_deficit, day),
    }


def _mean_within(values: Array, weights: Array) -> Array:
    """Weighted mean of each day; of all of it where the weights are zero, as in polar nights."""
    total = weights.sum(axis=1, keepdims=True)
    share = np.where(total == 0, 1 / weights.shape[1], weights / np.where(total == 0, 1.0, total))
    return np.asarray((share * values).sum(axis=1))
