"""Units of a tower's file, told by what no place on earth has by day."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kernels.carbon.weather import saturation_pressure
from pipelines.fluxes.records import FluxError
from pipelines.fluxes.tables import Array

# Daily values beyond these are of another unit: what is expected in the file, and the bounds in
# the units of the result. An extreme of a year lies far inside of them.
_FLUX = "umol m-2 s-1 in half-hourly and hourly files, gC m-2 d-1 in daily ones"
_BOUNDS = {
    "temperature": ("degrees Celsius", -90.0, 60.0),
    "radiation": ("W m-2", -2.0, 50.0),
    "vapor_deficit": ("hPa", -5.0, 120.0),
    "precipitation": ("mm", 0.0, 2000.0),
    "longwave": ("W m-2", 20.0, 700.0),
    "soil_temperature": ("degrees Celsius", -90.0, 70.0),
    "soil_water": ("percent of volume", -1.0, 101.0),
    "gpp": (_FLUX, -60.0, 80.0),
    "reco": (_FLUX, -60.0, 80.0),
    "nee": (_FLUX, -80.0, 80.0),
}
# MJ m-2 d-1: the sunniest day of any year is above it, and below it where the file has kW or MJ.
_SUNNIEST = 4.0
# Share of the saturation pressure: the driest day of any year is above it (90 % of humidity), and
# below it where the file has kPa, as no day is without any humidity.
_DRIEST = 0.1
_A_YEAR = 365


def check_units(path: Path, dynamic: Mapping[str, Array], fluxes: Mapping[str, Array]) -> None:
    """Raise FluxError where daily values, by name, cannot be in the units that are expected."""
    for name, values in {**dynamic, **fluxes}.items():
        if name not in _BOUNDS or np.isnan(values).all():
            continue
        units, least, most = _BOUNDS[name]
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if low < least or high > most:
            raise FluxError(
                f"{path}: {name} by day is {low:.4g} to {high:.4g}, expected {least:g} to {most:g} "
                f"from a column in {units}; convert it, or mark what is missing as -9999"
            )
    if len(dynamic["radiation"]) < _A_YEAR:
        return
    sunniest = np.nanmax(dynamic["radiation"], initial=0.0)
    if sunniest < _SUNNIEST:
        raise FluxError(
            f"{path}: radiation is {sunniest:.3g} MJ m-2 on the sunniest day, "
            f"expected more than {_SUNNIEST:g} from a column in W m-2; convert it"
        )
    dryness = dynamic["vapor_deficit"] / saturation_pressure(dynamic["temperature"])
    driest = np.nanmax(dryness, initial=0.0)
    if driest < _DRIEST:
        raise FluxError(
            f"{path}: vapor_deficit is {driest:.2g} of the saturation pressure on the driest day, "
            f"expected more than {_DRIEST:g} from a column in hPa; convert it"
        )
