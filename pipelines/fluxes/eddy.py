"""Measured fluxes: files of eddy-covariance towers, made into days, with a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.fluxes.columns import FLUXNET, Chosen, Columns, choose_columns
from pipelines.fluxes.daily import (
    GRAMS_OF_CARBON,
    MEGAJOULES,
    Filled,
    fill_short_gaps,
    good_share,
    radiation_noon,
)
from pipelines.fluxes.hours import hourly_responses
from pipelines.fluxes.records import Days, FluxError, FluxRecords, season
from pipelines.fluxes.tables import Array, as_numbers, open_table
from pipelines.fluxes.timeline import MINUTES_A_DAY, Timeline, lay_out, parse_times
from pipelines.fluxes.units import check_units

FLUXES = ("gpp", "reco", "nee")
_NOON = (10.5, 13.5)
_FILL_HOURS = 2
# In the file's units: files have three decimals and more, and the sum is a rounding error off.
_ADDITIVE = 0.001 + 1e-9


@dataclass(frozen=True)
class Findings:
    """What was found in a file, and what was done about it.

    Attributes:
        rows: Of the file.
        days: Of the result.
        step: Minutes between rows.
        duplicated: Rows that repeat a time; the first counts.
        off_grid: Rows at odd minutes, left out.
        missing: Steps without a row.
        variables: Steps missing, steps filled and days lost, of each variable.
        absent: Optional columns that the file lacks.
        leap_days: How many 29ths of February the record spans.
        leap_days_lost: How many of them have no GPP.
        partition_error: Largest difference of GPP and RECO - NEE, in the file's units.
        noon: Hour around which radiation is symmetric.
        notes: What a person should look at.
    """

    rows: int
    days: int
    step: int
    duplicated: int
    off_grid: int
    missing: int
    variables: dict[str, tuple[int, int, int]]
    absent: tuple[str, ...]
    leap_days: int
    leap_days_lost: int
    partition_error: float
    noon: float
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """Say it in lines of text."""
        head = [
            f"{self.rows} rows, one every {self.step} minutes, make {self.days} days",
            f"{self.duplicated} rows repeat a time, {self.off_grid} lie off the grid, "
            f"{self.missing} are missing; {self.leap_days_lost} of {self.leap_days} leap days lost",
            f"GPP = RECO - NEE to {self.partition_error:.2g}; noon by radiation {self.noon:.2f} h",
        ]
        each = [
            f"{name}: {missing} steps missing, {filled} filled, {lost} days lost"
            for name, (missing, filled, lost) in self.variables.items()
        ]
        return [*head, *each, *(f"absent: {name}" for name in self.absent), *self.notes]


@dataclass(frozen=True)
class Measured:
    """Daily fluxes of one tower.

    Attributes:
        records: Of one site; GPP, RECO and NEE in gC m-2 d-1.
        quality: Share of good NEE data in each day, (T); NaN where the file does not say.
        findings: The report.
    """

    records: FluxRecords
    quality: Array
    findings: Findings


def read_tower(
    path: Path,
    site: str,
    static: Mapping[str, float],
    columns: Columns = FLUXNET,
    renamed: Mapping[str, str] | None = None,
    shift_hours: float = 0.0,
) -> Measured:
    """Read the file of a tower, half-hourly, hourly or daily, and make days of it.

    Gaps of up to two hours are interpolated (precipitation is not); a day with a longer gap is
    NaN. Leap days stay. Half-hourly fluxes in umol m-2 s-1 become gC m-2 d-1.

    Args:
        path: CSV, Parquet or NetCDF.
        site: Its name.
        static: What is known of the site, by name; nothing is derived from the record, as that
            would tell a model of the days that it is tested on.
        columns: Which columns mean what.
        renamed: Names that differ from ``columns``, by meaning.
        shift_hours: To add to the file's times to reach local standard time.

    Raises:
        FluxError: A column is missing or holds something else, times are irregular, values are of
            other units, or GPP is not RECO - NEE to 0.001 where the columns are said to add up.
    """
    table = open_table(path)
    chosen = choose_columns(table, columns, renamed or {})
    names = chosen.columns.present()
    raw = table.load(list(dict.fromkeys(names.values())))
    place = f"{path}: column {names['time']}"
    times = parse_times(raw[names["time"]], place)
    timeline = lay_out(times, chosen.columns.label, shift_hours, place)
    grid = {
        what: timeline.place(as_numbers(raw[name], f"{path}: column {name}"))
        for what, name in names.items()
        if what != "time"
    }
    quality = _quality(grid.pop("nee_quality", None), chosen.columns, timeline)
    error = _partition_error(grid, chosen.columns.additive, path)
    longest = _FILL_HOURS * 60 // timeline.step
    filled = {
        name: fill_short_gaps(values, 0 if name == "precipitation" else longest)
        for name, values in grid.items()
    }
    dynamic = _dynamic(filled, timeline)
    fluxes = _fluxes(filled, timeline)
    check_units(path, dynamic, dict(zip(FLUXES, fluxes.T, strict=True)))
    records = FluxRecords(
        (site,),
        timeline.days,
        np.stack(list(dynamic.values()), axis=-1)[None],
        np.array([list(static.values())], np.float64),
        fluxes[None],
        tuple(dynamic),
        tuple(static),
        FLUXES,
    )
    findings = _report(len(times), timeline, filled, chosen, error, fluxes[:, 0])
    return Measured(records, quality, findings)


def _partition_error(grid: dict[str, Array], additive: bool, path: Path) -> float:
    difference = np.abs(grid["gpp"] - (grid["reco"] - grid["nee"]))
    if np.isnan(difference).all():
        raise FluxError(f"{path}: GPP, RECO and NEE are never there together")
    error = float(np.nanmax(difference))
    if additive and error > _ADDITIVE:
        wrong = int((difference > _ADDITIVE).sum())
        raise FluxError(
            f"{path}: GPP differs from RECO - NEE by up to {error:.3g}, by more than 0.001 in "
            f"{wrong} rows: they are not of one night-partitioned product; choose others with "
            "`renamed`, or say additive=False in `columns`"
        )
    return error


def _dynamic(filled: dict[str, Filled], timeline: Timeline) -> dict[str, Array]:
    warmth = filled["temperature"].values
    dynamic = {"temperature": warmth.mean(axis=1)}
    if timeline.step < MINUTES_A_DAY:
        dynamic |= {"temperature_min": warmth.min(axis=1), "temperature_max": warmth.max(axis=1)}
    dynamic["radiation"] = MEGAJOULES * filled["radiation"].values.mean(axis=1)
    dynamic["vapor_deficit"] = filled["vapor_deficit"].values.mean(axis=1)
    if "precipitation" in filled:
        dynamic["precipitation"] = filled["precipitation"].values.sum(axis=1)
    for name in ("longwave", "soil_temperature", "soil_water"):
        if name in filled:
            dynamic[name] = filled[name].values.mean(axis=1)
    if timeline.step < MINUTES_A_DAY:
        hours = (filled[name].values for name in ("temperature", "radiation", "vapor_deficit"))
        dynamic |= hourly_responses(*hours)
    phase = season(timeline.days)
    return dynamic | {"season_sine": phase[:, 0], "season_cosine": phase[:, 1]}


def _fluxes(filled: dict[str, Filled], timeline: Timeline) -> Array:
    scale = GRAMS_OF_CARBON if timeline.step < MINUTES_A_DAY else 1.0
    return np.stack([scale * filled[name].values.mean(axis=1) for name in FLUXES], axis=-1)


def _quality(flags: Array | None, columns: Columns, timeline: Timeline) -> Array:
    if flags is None:
        return np.full(len(timeline.days), np.nan)
    return good_share(flags, columns.quality == "measured")


def _report(
    rows: int,
    timeline: Timeline,
    filled: dict[str, Filled],
    chosen: Chosen,
    error: float,
    gpp: Array,
) -> Findings:
    leap = _is_leap_day(timeline.days)
    noon = radiation_noon(filled["radiation"].values)
    return Findings(
        rows=rows,
        days=len(timeline.days),
        step=timeline.step,
        duplicated=timeline.duplicated,
        off_grid=timeline.off_grid,
        missing=timeline.missing,
        variables={n: (f.missing, f.filled, f.lost_days) for n, f in filled.items()},
        absent=chosen.absent,
        leap_days=int(leap.sum()),
        leap_days_lost=int(np.isnan(gpp[leap]).sum()),
        partition_error=error,
        noon=noon,
        notes=_notes(timeline, noon, error),
    )


def _notes(timeline: Timeline, noon: float, error: float) -> tuple[str, ...]:
    notes = []
    if timeline.daylight_saving:
        notes.append(
            "an hour is missing in spring and one is double in autumn: the times keep daylight "
            "saving; half the year's days begin an hour early"
        )
    if not (np.isnan(noon) or _NOON[0] <= noon <= _NOON[1]):
        notes.append(
            f"radiation is highest around {noon:.1f} h, expected {_NOON[0]} to {_NOON[1]}: "
            "the times are not local; give shift_hours"
        )
    if error > _ADDITIVE:
        notes.append(
            "GPP, RECO and NEE are not of one product and do not add up; in FLUXNET's files those "
            "of FLUXNET_USTAR50 do"
        )
    return tuple(notes)


def _is_leap_day(days: Days) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    month = days.astype("datetime64[M]")
    return np.asarray((month.astype(int) % 12 == 1) & ((days - month).astype(int) == 28))
