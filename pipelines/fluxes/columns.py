"""Which columns of a file mean what: FLUXNET's names, and those of CH-DAV in diive."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipelines.fluxes.records import FluxError
from pipelines.fluxes.tables import Table, shown

Label = Literal["start", "middle", "end"]
OPTIONAL = ("precipitation", "longwave", "soil_temperature", "soil_water", "nee_quality")


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    Attributes:
        time: Column of times.
        label: Which moment of its interval a time names.
        temperature: Air temperature, degrees Celsius.
        radiation: Incoming shortwave, W m-2.
        vapor_deficit: hPa.
        precipitation: mm in the interval; empty where there is none.
        longwave: Incoming, W m-2; empty where there is none.
        soil_temperature: Degrees Celsius; empty where there is none.
        soil_water: Percent of volume; empty where there is none.
        nee: Net ecosystem exchange, positive where the ecosystem loses carbon: umol m-2 s-1 in
            half-hourly and hourly files, gC m-2 d-1 in daily ones.
        gpp: As ``nee``.
        reco: As ``nee``.
        nee_quality: A flag of ``nee``, see ``quality``; empty where there is none.
        quality: What the flag is: ``fluxnet`` (0 measured, 1 to 3 filled well to poorly, or the
            share of good data in daily files) or ``measured`` (a number where it was measured).
        additive: Whether GPP = RECO - NEE, as in one night-partitioned product.
    """

    time: str
    label: Label
    temperature: str
    radiation: str
    vapor_deficit: str
    precipitation: str
    nee: str
    gpp: str
    reco: str
    nee_quality: str
    quality: Literal["fluxnet", "measured"] = "fluxnet"
    additive: bool = True
    longwave: str = ""
    soil_temperature: str = ""
    soil_water: str = ""

    def present(self) -> dict[str, str]:
        """All columns that have a name: the meaning, and that name."""
        names = {
            "time": self.time,
            **self.required(),
            **{what: getattr(self, what) for what in OPTIONAL},
        }
        return {what: name for what, name in names.items() if name}

    def required(self) -> dict[str, str]:
        """What every file must have: the meaning, and the name of the column."""
        names = ("temperature", "radiation", "vapor_deficit", "nee", "gpp", "reco")
        return {name: getattr(self, name) for name in names}


# The reference columns are those that are used most. They are chosen one by one out of 40
# thresholds of friction velocity (Pastorello et al. 2020, doi 10.1038/s41597-020-0534-3), so GPP,
# RECO and NEE are of different ones, and do not add up.
FLUXNET = Columns(
    time="TIMESTAMP_START",
    label="start",
    temperature="TA_F",
    radiation="SW_IN_F",
    vapor_deficit="VPD_F",
    precipitation="P_F",
    nee="NEE_VUT_REF",
    gpp="GPP_NT_VUT_REF",
    reco="RECO_NT_VUT_REF",
    nee_quality="NEE_VUT_REF_QC",
    additive=False,
    longwave="LW_IN_F",
    soil_temperature="TS_F_MDS_1",
    soil_water="SWC_F_MDS_1",
)
# All of the median threshold: these add up.
FLUXNET_USTAR50 = replace(
    FLUXNET,
    nee="NEE_VUT_USTAR50",
    gpp="GPP_NT_VUT_USTAR50",
    reco="RECO_NT_VUT_USTAR50",
    nee_quality="NEE_VUT_USTAR50_QC",
    additive=True,
)
CH_DAV = Columns(
    time="TIMESTAMP_MIDDLE",
    label="middle",
    temperature="Tair_f",
    radiation="Rg_f",
    vapor_deficit="VPD_f",
    precipitation="PREC_TOT_T1_25+20_1",
    nee="NEE_CUT_REF_f",
    gpp="GPP_CUT_REF_f",
    reco="Reco_CUT_REF",
    nee_quality="NEE_CUT_REF_orig",
    quality="measured",
    longwave="LW_IN",
    soil_water="SWC_FF0_0.15_1",
)
CH_DAV_DAY = replace(CH_DAV, gpp="GPP_DT_CUT_REF", reco="Reco_DT_CUT_REF", additive=False)
# Where FLUXNET's own column of times is absent: daily files have TIMESTAMP, NetCDF has time.
_TIMES: tuple[tuple[str, Label], ...] = (
    ("TIMESTAMP_START", "start"),
    ("TIMESTAMP_END", "end"),
    ("TIMESTAMP_MIDDLE", "middle"),
    ("TIMESTAMP", "start"),
    ("time", "start"),
)


@dataclass(frozen=True)
class Chosen:
    """Columns that a file has, and the names of optional ones that it lacks."""

    columns: Columns
    absent: tuple[str, ...] = field(default=())


def choose_columns(table: Table, wanted: Columns, renamed: Mapping[str, str]) -> Chosen:
    """Fit the wanted columns to what a file has.

    Args:
        table: The file.
        wanted: ``FLUXNET``, ``FLUXNET_USTAR50``, ``CH_DAV``, or your own.
        renamed: Meaning to name, where the file has another, as ``{"nee": "NEE_CUT_REF"}``.

    Raises:
        FluxError: A meaning is unknown, or a required column is missing.
    """
    meanings = set(Columns.__dataclass_fields__)
    if set(renamed) - meanings:
        raise FluxError(f"no meaning {shown(set(renamed) - meanings)}; there are {shown(meanings)}")
    changes: dict[str, Any] = dict(renamed)
    columns = replace(wanted, **changes)
    if columns.time not in table.names and "time" not in renamed:
        names = [pair for pair in _TIMES if pair[0] in table.names]
        if names:
            columns = replace(columns, time=names[0][0], label=names[0][1])
    required = columns.required() | {"time": columns.time}
    missing = [f"{name} ({what})" for what, name in required.items() if name not in table.names]
    if missing:
        raise FluxError(
            f"{table.path}: no column {shown(missing)}; there are {shown(table.names)}; "
            "name the ones to use with `renamed`"
        )
    optional = [name for name in OPTIONAL if getattr(columns, name)]
    absent = tuple(name for name in optional if getattr(columns, name) not in table.names)
    unset: dict[str, Any] = dict.fromkeys(absent, "")
    return Chosen(replace(columns, **unset), absent)
