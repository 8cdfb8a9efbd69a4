"""Files of towers, made up: three years of days under a season, with gaps."""

from pathlib import Path

import numpy as np
import pandas as pd


def tower_table(start: str = "2015-01-01", end: str = "2017-12-31", seed: int = 1) -> pd.DataFrame:
    """Daily rows in FLUXNET's names and units, over the leap day of 2016."""
    days = pd.date_range(start, end)
    rng = np.random.default_rng(seed)
    summer = -np.cos(2 * np.pi * (days.day_of_year.to_numpy() - 15) / 365.25)
    warmth = 8 + 10 * summer + rng.normal(size=len(days))
    light = 150 + 110 * summer + 20 * rng.normal(size=len(days))
    gpp = 0.02 * light * (1 + 0.05 * warmth)
    reco = 1.5 * np.exp(0.05 * warmth)
    table = pd.DataFrame(
        {
            "TIMESTAMP": days.strftime("%Y%m%d"),
            "TA_F": warmth,
            "SW_IN_F": light.clip(min=5),
            "VPD_F": 4 + 3 * summer + rng.random(len(days)),
            "NEE_VUT_USTAR50": reco - gpp,
            "GPP_NT_VUT_USTAR50": gpp,
            "RECO_NT_VUT_USTAR50": reco,
            "NEE_VUT_USTAR50_QC": rng.uniform(0.2, 1.0, len(days)),
        }
    )
    return table.set_index(days)


def spoil(table: pd.DataFrame) -> pd.DataFrame:
    """The same with gaps: of a driver, and of the fluxes of a month of each part of a split."""
    fluxes = [name for name in table if str(name).startswith(("NEE", "GPP", "RECO"))]
    table = table.copy()
    table.loc["2015-05-03":"2015-05-20", "VPD_F"] = -9999.0
    for first in ("2015-06-01", "2016-12-25", "2017-08-10"):
        table.loc[first : str(pd.Timestamp(first) + pd.Timedelta("20D")), fluxes] = -9999.0
    return table


def save_tower(table: pd.DataFrame, path: Path) -> Path:
    """Write a file of a tower."""
    table.to_csv(path, index=False)
    return path
