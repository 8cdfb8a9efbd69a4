"""Ecosystem carbon: the DALEC-CDEA model with ACM photosynthesis, and weather to drive it.

Everything is NumPy in float64 and batched over sites; a site's result does not depend on the
others in its batch.
"""

from kernels.carbon.canopy import day_length, photosynthesis
from kernels.carbon.dalec import Fluxes, Forcing, Parameters, Pools, simulate
from kernels.carbon.equilibrium import equilibrium
from kernels.carbon.weather import Climate, Weather, extraterrestrial_radiation, generate_weather

__all__ = [
    "Climate",
    "Fluxes",
    "Forcing",
    "Parameters",
    "Pools",
    "Weather",
    "day_length",
    "equilibrium",
    "extraterrestrial_radiation",
    "generate_weather",
    "photosynthesis",
    "simulate",
]
