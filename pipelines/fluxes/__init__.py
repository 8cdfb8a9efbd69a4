"""Carbon fluxes of sites, by day: simulated, or measured by eddy covariance; split and scaled.

The stored form and all definitions are in ``docs/carbon.md``.
"""

from pipelines.fluxes.columns import CH_DAV, FLUXNET, FLUXNET_USTAR50, Columns
from pipelines.fluxes.davos import read_davos
from pipelines.fluxes.eddy import Findings, Measured, read_tower
from pipelines.fluxes.normalization import Normalizer, Scale
from pipelines.fluxes.records import FluxError, FluxRecords
from pipelines.fluxes.simulation import SimulatedSites, SiteRun, simulate_sites
from pipelines.fluxes.splits import (
    Split,
    split_dates,
    split_sites,
    split_time,
    split_warm_sites,
    windows,
)
from pipelines.fluxes.storage import plan_sites, read_sites, write_sites
from pipelines.fluxes.towers import join_towers, read_towers, write_towers

__all__ = [
    "CH_DAV",
    "FLUXNET",
    "FLUXNET_USTAR50",
    "Columns",
    "Findings",
    "FluxError",
    "FluxRecords",
    "Measured",
    "Normalizer",
    "Scale",
    "SimulatedSites",
    "SiteRun",
    "Split",
    "join_towers",
    "plan_sites",
    "read_davos",
    "read_sites",
    "read_tower",
    "read_towers",
    "simulate_sites",
    "split_dates",
    "split_sites",
    "split_time",
    "split_warm_sites",
    "windows",
    "write_sites",
    "write_towers",
]
