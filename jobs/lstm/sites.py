"""Stages ``simulate`` and ``prepare``: sites of the carbon model, shard by shard, then sealed."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster import Attempt, Member
from jobs.lstm.config import LstmConfig
from pipelines.ensemble import collect, gather_provenance
from pipelines.fluxes import (
    FluxRecords,
    SiteRun,
    Split,
    plan_sites,
    read_sites,
    read_towers,
    split_dates,
    split_sites,
    split_time,
    split_warm_sites,
    write_sites,
)
from pipelines.plan import identity


def sites_path(run: Path) -> Path:
    """Where the sites lie in the run directory."""
    return run / "data" / "sites.zarr"


def records_path(config: LstmConfig, run: Path) -> Path:
    """Where what all members read lies: the sites, or the towers."""
    return run / "data" / "towers.zarr" if config.data.measured else sites_path(run)


def read_records(config: LstmConfig, run: Path) -> FluxRecords:
    """Read what stage ``prepare`` sealed.

    Raises:
        FluxError: It is not there, or not sealed.
    """
    read = read_towers if config.data.measured else read_sites
    return read(records_path(config, run))


def simulate(config: LstmConfig, member: Member, attempt: Attempt) -> str:
    """Simulate one shard of the sites and commit it; returns the path of the store."""
    ask, path = config.sites, sites_path(member.run)
    run = SiteRun(config.seed, ask.count, ask.years, ask.first_year)
    path.parent.mkdir(exist_ok=True)
    plan_sites(path, run, ask.count // ask.per_shard, identity(config))
    provenance = gather_provenance(identity(config), config.seed)
    write_sites(path, run, member.index, provenance, attempt.number)
    return str(path)


def prepare(config: LstmConfig, member: Member) -> int:
    """Seal the sites, which all members of ``train`` read; returns how many shards there are.

    Raises:
        EnsembleError: A shard is missing or damaged.
    """
    return len(collect(sites_path(member.run))["valid"])


def split_of(config: LstmConfig, records: FluxRecords) -> Split:
    """What a configuration learns from and tests on; the same for all of its seeds."""
    ask, sites, days = config.split, records.sites, records.days
    shares = (ask.validation, ask.test)
    if ask.kind == "time":
        validation, test = (str(days[cut]) for cut in ask.cuts(len(days)))
        return split_time(sites, days, validation, test)
    if ask.kind == "dates":
        return split_dates(sites, days, str(ask.train_until), str(ask.test_from))
    if ask.kind == "warm_site":
        first_year = int(str(days[0])[:4])
        warm_until = f"{first_year + ask.warm_years}-01-01"
        return split_warm_sites(sites, days, shares, warm_until, config.seed)
    return split_sites(sites, days, shares, config.seed)


def deviations(config: LstmConfig, records: FluxRecords, split: Split) -> NDArray[np.float64]:
    """What errors of each site's fluxes are divided by, (S, F); training days decide.

    With ``deviation: site`` the squares are those of the efficiency by site (the NSE* of Kratzert
    et al. 2019, doi:10.5194/hess-23-5089-2019). Sites without a training day, which are validated
    on, take the deviation over all sites.
    """
    pooled = np.nanstd(records.fluxes[split.training], axis=0)
    found = np.tile(pooled, (len(records.sites), 1))
    if config.objective.deviation == "site":
        for site in np.flatnonzero(split.training.any(axis=1)):
            days = records.fluxes[site, split.training[site]]
            known = np.isfinite(days).any(axis=0)
            own = np.nanstd(days[:, known], axis=0)
            found[site, known] = own + config.objective.floor * pooled[known]
    return found
