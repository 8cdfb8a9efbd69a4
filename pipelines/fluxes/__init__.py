"""Carbon fluxes of sites, by day: simulated, or measured by eddy covariance; split and scaled.

The stored form and all definitions are in ``docs/carbon.md``.
"""

from pipelines.fluxes.normalization import Normalizer, Scale
from pipelines.fluxes.records import FluxError, FluxRecords
from pipelines.fluxes.simulation import SimulatedSites, SiteRun, simulate_sites
from pipelines.fluxes.splits import Split, split_sites, split_time, split_warm_sites, windows
from pipelines.fluxes.storage import plan_sites, read_sites, write_sites

__all__ = [
    "FluxError",
    "FluxRecords",
    "Normalizer",
    "Scale",
    "SimulatedSites",
    "SiteRun",
    "Split",
    "plan_sites",
    "read_sites",
    "simulate_sites",
    "split_sites",
    "split_time",
    "split_warm_sites",
    "windows",
    "write_sites",
]
