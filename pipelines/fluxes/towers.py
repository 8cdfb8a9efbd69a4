"""Several towers as one record, and that record in a store of its own, which a run is read from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.ensemble import (
    ArraySpec,
    Coordinate,
    collect,
    create_ensemble,
    write_member,
)
from pipelines.fluxes.eddy import FLUXES, Measured
from pipelines.fluxes.records import Array, FluxError, FluxRecords

# Days survive as whole numbers since this one.
_DAY_ZERO = "1970-01-01"


def join_towers(
    towers: Sequence[Measured], variables: Sequence[str] = (), least_quality: float = 0.0
) -> FluxRecords:
    """Lay towers on common days, from the first of any to the last; NaN where one was not there.

    Args:
        towers: Read from their files.
        variables: Drivers to keep, in this order; all that every tower has where none is named.
        least_quality: Share of good NEE data below which a day's fluxes are left out.

    Raises:
        FluxError: A name comes twice, a tower lacks a variable or has other static features, or
            its file does not say how good its data are where that is asked for.
    """
    names = [tower.records.sites[0] for tower in towers]
    if not towers or len(set(names)) < len(names):
        raise FluxError(f"expected towers of different names, found {', '.join(names) or 'none'}")
    static = towers[0].records.static_names
    for tower in towers:
        if tower.records.static_names != static:
            raise FluxError(
                f"{tower.records.sites[0]}: static features {', '.join(tower.records.static_names)}"
                f", but {names[0]} has {', '.join(static)}; give all towers the same ones"
            )
    kept = [_good(tower, least_quality) for tower in towers]
    shared = reduce(_shared, [records.dynamic_names for records in kept])
    kept = [_selected(records, variables or shared) for records in kept]
    first = min(records.days[0] for records in kept)
    last = max(records.days[-1] for records in kept)
    days = np.arange(first, last + np.timedelta64(1, "D"))
    return replace(
        kept[0],
        sites=tuple(names),
        days=days,
        dynamic=np.concatenate([_laid(records, records.dynamic, days) for records in kept]),
        static=np.concatenate([records.static for records in kept]),
        fluxes=np.concatenate([_laid(records, records.fluxes, days) for records in kept]),
    )


def _shared(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in ours if name in theirs)


def _good(tower: Measured, least: float) -> FluxRecords:
    records = tower.records
    if least <= 0:
        return records
    if np.isnan(tower.quality).all():
        raise FluxError(
            f"{records.sites[0]}: its file does not say how good NEE is; expected a column for "
            "nee_quality, or a least quality of 0"
        )
    poor = ~(tower.quality >= least)
    return replace(records, fluxes=np.where(poor[:, None], np.nan, records.fluxes))


def _selected(records: FluxRecords, variables: Sequence[str]) -> FluxRecords:
    try:
        return records.select(variables, records.flux_names)
    except FluxError as error:
        raise FluxError(f"{records.sites[0]}: {error}") from error


def _laid(records: FluxRecords, values: Array, days: Any) -> Array:
    """Values (1, T, V) on more days."""
    found = np.full((1, len(days), values.shape[-1]), np.nan)
    start = int((records.days[0] - days[0]).astype(int))
    found[:, start : start + len(records.days)] = values
    return found


def write_towers(
    path: Path, records: FluxRecords, provenance: Mapping[str, Any], fence: int
) -> None:
    """Write the record of all towers as the one member of an ensemble, and seal it.

    Done again after any kill, it leaves the same bytes.

    Args:
        path: The Zarr group.
        records: Of towers.
        provenance: ``config_digest`` must be in it.
        fence: Number of the attempt.

    Raises:
        EnsembleError: Something else is at ``path``, a record that was read before from other
            files, say; or it cannot be written.
    """
    sites, days = len(records.sites), len(records.days)
    dynamic, static, fluxes = (
        len(names) for names in (records.dynamic_names, records.static_names, records.flux_names)
    )
    arrays = [
        ArraySpec("dynamic", (sites, days, dynamic), ("site", "day", "driver"), "float64"),
        ArraySpec("fluxes", (sites, days, fluxes), ("site", "day", "flux"), "float64"),
        ArraySpec("static", (sites, static), ("site", "property"), "float64"),
    ]
    attributes = {
        "config_digest": provenance["config_digest"],
        "title": "Carbon fluxes measured by eddy covariance, by day",
        "sites": list(records.sites),
        "dynamic_names": list(records.dynamic_names),
        "static_names": list(records.static_names),
        "flux_names": list(records.flux_names),
        "flux_units": "gC m-2 d-1",
    }
    number = records.days.astype("datetime64[D]").astype(np.int64)
    day = Coordinate("day", number, f"days since {_DAY_ZERO}", "calendar day, leap days included")
    create_ensemble(path, 1, arrays, attributes, [day])
    values = {spec.name: np.asarray(getattr(records, spec.name), np.float64) for spec in arrays}
    write_member(path, 0, values, provenance, fence)
    collect(path)


def read_towers(path: Path) -> FluxRecords:
    """Read what :func:`write_towers` wrote.

    Raises:
        FluxError: It is no such store, or is not sealed.
    """
    import zarr

    try:
        group: Any = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise FluxError(f"{path}: no Zarr group here; read the towers first") from error
    names = group.attrs.asdict()
    if tuple(names.get("flux_names", ())) != FLUXES or "valid" not in group:
        raise FluxError(f"{path}: not a sealed store of towers")
    dynamic, static, fluxes = (
        np.asarray(group[name][0], np.float64) for name in ("dynamic", "static", "fluxes")
    )
    return FluxRecords(
        tuple(names["sites"]),
        np.asarray(group["day"][:]).astype("datetime64[D]"),
        dynamic,
        static,
        fluxes,
        tuple(names["dynamic_names"]),
        tuple(names["static_names"]),
        tuple(names["flux_names"]),
    )
