"""Simulated sites in one Zarr ensemble: each member of an array writes one shard of them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kernels.carbon import Pools
from pipelines.ensemble import ArraySpec, Commit, Coordinate, Layout, create_ensemble, write_member
from pipelines.fluxes.records import FluxError, FluxRecords
from pipelines.fluxes.simulation import DYNAMIC, FLUXES, STATIC, SiteRun, simulate_sites

# Carbon budgets close to 1e-9 gC on the disk too, which single precision could not hold.
_DTYPE = "float64"


def plan_sites(path: Path, run: SiteRun, shards: int, config_digest: str) -> Layout:
    """Create the store that ``shards`` members will fill; doing it again changes nothing.

    Arrays have the axes (shard, site, day, variable); the names of the variables are attributes
    of the group. See ``docs/carbon.md``.

    Args:
        path: The Zarr group.
        run: Which sites.
        shards: Number of members; it divides the number of sites.
        config_digest: Of the configuration: members of another are refused.

    Raises:
        FluxError: The shards would not be equally large.
        EnsembleError: Something else is at ``path``, or it cannot be written.
    """
    if shards < 1 or run.sites % shards:
        raise FluxError(f"{run.sites} sites in {shards} shards: expected equal shards")
    each, days = run.sites // shards, len(run.days)
    arrays = [
        _array("dynamic", (each, days, len(DYNAMIC)), ("site", "day", "driver"), "weather"),
        _array("static", (each, len(STATIC)), ("site", "property"), "what a site is"),
        _array("fluxes", (each, days, len(FLUXES)), ("site", "day", "flux"), "carbon fluxes"),
        _array(
            "pools", (each, days + 1, len(Pools._fields)), ("site", "morning", "pool"), "carbon"
        ),
    ]
    attributes: dict[str, Any] = {
        "config_digest": config_digest,
        "title": "DALEC-CDEA sites under generated weather",
        "references": "doi:10.5194/bg-12-1299-2015",
        "run": asdict(run),
        "dynamic_names": list(DYNAMIC),
        "dynamic_units": list(DYNAMIC.values()),
        "static_names": list(STATIC),
        "flux_names": list(FLUXES),
        "flux_units": "gC m-2 d-1",
        "pool_names": list(Pools._fields),
        "pool_units": "gC m-2",
    }
    unit = f"days since {run.days[0]}"
    day = Coordinate("day", np.arange(days), unit, "calendar day, leap days included")
    return create_ensemble(path, shards, arrays, attributes, [day])


def _array(name: str, shape: tuple[int, ...], dims: tuple[str, ...], long_name: str) -> ArraySpec:
    return ArraySpec(name, shape, dims, _DTYPE, long_name=long_name)


def write_sites(
    path: Path, run: SiteRun, shard: int, provenance: dict[str, Any], fence: int
) -> Commit:
    """Simulate one shard of the sites and commit it: the work of one member of an array.

    Any number of kills and repetitions leave the same bytes, as a site depends on nothing but
    the run and its number.

    Args:
        path: What :func:`plan_sites` made.
        run: The same.
        shard: Index of the member.
        provenance: Of the member; ``config_digest`` must be in it.
        fence: Number of the attempt.

    Raises:
        FluxError: The run is not the one that was planned.
        EnsembleError: The shard cannot be written.
    """
    planned = _group(path).attrs.asdict()
    if planned.get("run") != asdict(run):
        raise FluxError(f"{path}: planned for {planned.get('run')}, not for {asdict(run)}")
    each = _group(path)["static"].shape[1]
    made = simulate_sites(run, range(shard * each, (shard + 1) * each))
    records = made.records
    arrays = {
        "dynamic": records.dynamic,
        "static": records.static,
        "fluxes": records.fluxes,
        "pools": made.pools,
    }
    detail = provenance | {"draws": made.draws.tolist()}
    return write_member(path, shard, arrays, detail, fence)


def read_sites(path: Path) -> FluxRecords:
    """Read all sites of a sealed store.

    Raises:
        FluxError: It is no such store, or a member is not in it (``valid`` says which).
    """
    group = _group(path)
    names = group.attrs.asdict()
    if "flux_names" not in names or "valid" not in group:
        raise FluxError(f"{path}: not a store of simulated sites")
    valid = np.asarray(group["valid"][:], bool)
    if not valid.all():
        absent = np.flatnonzero(~valid)[:10].tolist()
        raise FluxError(f"{path}: shards {absent} are not sealed; run them, then collect")
    dynamic, static, fluxes = (_merged(group[name][:]) for name in ("dynamic", "static", "fluxes"))
    run = SiteRun(**names["run"])
    return FluxRecords(
        tuple(f"site-{site:05d}" for site in range(run.sites)),
        run.days,
        dynamic,
        static,
        fluxes,
        tuple(names["dynamic_names"]),
        tuple(names["static_names"]),
        tuple(names["flux_names"]),
    )


def _merged(values: Any) -> Any:
    """Shards and the sites in them as one axis."""
    return values.reshape(-1, *values.shape[2:])


def _group(path: Path) -> Any:
    import zarr

    try:
        return zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise FluxError(f"{path}: no Zarr group here; plan the sites first") from error
