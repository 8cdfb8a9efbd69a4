"""Where the sites of the LSTM job come from, as its configuration says it; imports no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.config import Config


class TowerConfig(Config):
    """One tower's file; see :func:`pipelines.fluxes.read_tower`.

    Attributes:
        site: Its name.
        path: CSV, Parquet or NetCDF, an absolute path that every node sees.
        static: What is known of the site, one value at least, by names that all towers share.
        columns: Whose names the columns have: ``fluxnet``, its reference columns, or
            ``fluxnet_ustar50``, of one threshold, so that GPP is RECO - NEE.
        renamed: Names of columns that differ from these, by meaning.
        shift_hours: To add to its times to reach local standard time.
    """

    site: str
    path: str
    static: Annotated[dict[str, float], Field(min_length=1)]
    columns: Literal["fluxnet", "fluxnet_ustar50"] = "fluxnet_ustar50"
    renamed: dict[str, str] = Field(default_factory=dict)
    shift_hours: float = 0.0

    @model_validator(mode="after")
    def _fits(self) -> "TowerConfig":
        _check_absolute("path", self.path)
        return self


class DataConfig(Config):
    """What is learned from: the process model, or towers.

    Attributes:
        source: ``process_model``, files of ``towers``, or the tower CH-DAV out of diive.
        towers: The files, for ``towers``.
        davos: The Parquet file, for ``davos``; that of the installed diive where it is empty.
        partitioning: Which GPP and RECO of CH-DAV: by night, or by day.
        variables: Drivers to use, by name; all that every tower has where none is named.
        least_quality: Share of good NEE data below which the fluxes of a day are left out.
    """

    source: Literal["process_model", "towers", "davos"] = "process_model"
    towers: tuple[TowerConfig, ...] = ()
    davos: str = ""
    partitioning: Literal["night", "day"] = "night"
    variables: tuple[str, ...] = ()
    least_quality: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def measured(self) -> bool:
        """Whether the sites are towers."""
        return self.source != "process_model"

    @model_validator(mode="after")
    def _fits(self) -> "DataConfig":
        if (self.source == "towers") != bool(self.towers):
            raise ValueError(
                f"source={self.source} with {len(self.towers)} files of towers; "
                "expected files with source=towers, and with it alone"
            )
        _check_absolute("davos", self.davos)
        return self


def _check_absolute(name: str, path: str) -> None:
    """Members run elsewhere: on other nodes, in other directories."""
    if path and not Path(path).is_absolute():
        raise ValueError(f"{name} must be an absolute path, found {path}")
