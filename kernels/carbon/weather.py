"""Daily weather of a climate: seasons from astronomy, and noise that remembers."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SOLAR = 0.0820  # MJ m-2 min-1, FAO-56
_YEAR = 365.25
SHOCKS = 3


class Climate(NamedTuple):
    """Of each site, (B).

    Attributes:
        latitude: Degrees north.
        temperature: Annual mean, degrees Celsius.
        seasonality: Half of the range of the daily mean over the year, K.
        diurnal: Range of temperature in a day of average sunshine, K.
        variability: Standard deviation of the daily mean around the season, K.
        persistence: Correlation of that deviation from day to day, in [0, 1).
        sunshine: Share of sunshine of a typical day, in (0, 1).
        dryness: How far the dew point lies below the daily minimum, K.
    """

    latitude: Array
    temperature: Array
    seasonality: Array
    diurnal: Array
    variability: Array
    persistence: Array
    sunshine: Array
    dryness: Array


class Weather(NamedTuple):
    """Of each site and day, (B, T).

    Attributes:
        coldest: Minimum air temperature, degrees Celsius.
        warmest: Maximum air temperature, degrees Celsius.
        light: Global radiation, MJ m-2 d-1.
        vapor_deficit: Vapor pressure deficit, hPa.
        carbon_dioxide: ppm.
    """

    coldest: Array
    warmest: Array
    light: Array
    vapor_deficit: Array
    carbon_dioxide: Array


def extraterrestrial_radiation(latitude: ArrayLike, day: ArrayLike) -> Array:
    """Radiation on top of the atmosphere, MJ m-2 d-1, by degrees north and day of the year.

    Source: Allen et al. (1998), FAO Irrigation and Drainage Paper 56, equations 21 to 25.
    """
    phi, angle = np.deg2rad(latitude), 2 * np.pi * np.asarray(day, np.float64) / 365
    distance, delta = 1 + 0.033 * np.cos(angle), 0.409 * np.sin(angle - 1.39)
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(delta), -1, 1))
    high = sunset * np.sin(phi) * np.sin(delta) + np.cos(phi) * np.cos(delta) * np.sin(sunset)
    # In the polar night the two terms cancel to a rounding error of either sign.
    return np.asarray(24 * 60 / np.pi * _SOLAR * distance * np.maximum(high, 0))


def saturation_pressure(temperature: Array) -> Array:
    """Of water vapor, hPa, by degrees Celsius (FAO-56, equation 11)."""
    return np.asarray(6.108 * np.exp(17.27 * temperature / (temperature + 237.3)))


def autoregressive(shocks: Array, persistence: Array) -> Array:
    """A stationary AR(1) process of unit variance, (B, T), from standard normal shocks."""
    noise = np.empty_like(shocks)
    noise[:, 0] = shocks[:, 0]
    fresh = np.sqrt(1 - persistence**2)
    for t in range(1, shocks.shape[1]):
        noise[:, t] = persistence * noise[:, t - 1] + fresh * shocks[:, t]
    return noise


def air_carbon_dioxide(latitude: Array, year: Array) -> Array:
    """Carbon dioxide of the air, ppm, (B, T): 371 in 2001 and 2.2 more each year.

    The seasonal cycle grows from nothing in the far south to 8 ppm in the far north, highest in
    May. Both are rounded from the record of NOAA's Global Monitoring Laboratory.
    """
    swing = 8 * np.clip((latitude[:, None] + 30) / 100, 0, 1)
    season = np.cos(2 * np.pi * (year - 0.37))
    return np.asarray(371 + 2.2 * (year - 2001) + swing * season)


def generate_weather(climate: Climate, day: Array, year: Array, shocks: Array) -> Weather:
    """Make weather of a climate out of random numbers.

    Cloudy days have less light and a smaller range of temperature; warm and dry anomalies come
    with sunshine in part. Radiation follows FAO-56, equation 35 (Angstrom), and humidity
    equation 48 (the dew point follows the daily minimum).

    Args:
        climate: Of each site, (B).
        day: Day of the year, (T).
        year: Decimal year, (T).
        shocks: Standard normal, (B, 3, T): temperature, sunshine, humidity.

    Returns:
        The weather, (B, T). The same site has the same weather whatever else is in the batch.
    """
    c = Climate(*(np.asarray(values)[:, None] for values in climate))
    warm, sunny, dry = (
        autoregressive(np.ascontiguousarray(shocks[:, i]), p)
        for i, p in enumerate((climate.persistence, 0.5 * climate.persistence, climate.persistence))
    )
    sunshine = 1 / (1 + np.exp(-(np.log(c.sunshine / (1 - c.sunshine)) + 1.2 * sunny)))
    light = (0.25 + 0.5 * sunshine) * extraterrestrial_radiation(c.latitude, day)
    # The warmest day comes a month after the solstice, half a year later in the south.
    season = np.where(c.latitude >= 0, 1, -1) * np.cos(2 * np.pi * (day - 201) / _YEAR)
    anomaly = c.variability * (0.9 * warm + np.sqrt(1 - 0.9**2) * sunny)
    mean = c.temperature + c.seasonality * season + anomaly
    half = 0.5 * c.diurnal * (0.5 + sunshine)
    coldest, warmest = mean - half, mean + half
    dew_point = coldest - c.dryness * np.exp(0.3 * dry)
    saturated = 0.5 * (saturation_pressure(coldest) + saturation_pressure(warmest))
    deficit = saturated - saturation_pressure(dew_point)
    air = air_carbon_dioxide(climate.latitude, year)
    return Weather(coldest, warmest, light, deficit, np.ascontiguousarray(air))
