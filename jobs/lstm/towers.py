"""Stage ``prepare`` of towers: their files are read once, and sealed in the run."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cluster import Attempt, Member
from jobs.lstm.config import LstmConfig
from jobs.lstm.sites import records_path, split_of
from jobs.lstm.sources import TowerConfig
from pipelines.ensemble import gather_provenance
from pipelines.fluxes import (
    FLUXNET,
    FLUXNET_USTAR50,
    FluxError,
    FluxRecords,
    Measured,
    join_towers,
    read_davos,
    read_tower,
    windows,
    write_towers,
)
from pipelines.fluxes.davos import find_davos
from pipelines.fluxes.forecasts import forecast_windows
from pipelines.plan import identity

_COLUMNS = {"fluxnet": FLUXNET, "fluxnet_ustar50": FLUXNET_USTAR50}


def prepare(config: LstmConfig, member: Member, attempt: Attempt) -> int:
    """Read the files, check that every point of the sweep can use them, and seal what they hold.

    What was found in each file, and its digest, are in the commit. Nothing after this stage reads
    a file of a tower.

    Returns:
        How many days the record has.

    Raises:
        FluxError: A file is missing or not as it should be, or its record is too short.
    """
    read = list(_read(config))
    ask = config.data
    records = join_towers([tower for _, tower in read], ask.variables, ask.least_quality)
    check_length(config, records)
    path = records_path(config, member.run)
    path.parent.mkdir(exist_ok=True)
    told = {
        tower.records.sites[0]: {
            "file": str(file),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "findings": tower.findings.lines(),
        }
        for file, tower in read
    }
    provenance = gather_provenance(identity(config), config.seed) | {"towers": told}
    write_towers(path, records, provenance, attempt.number)
    return len(records.days)


def check_length(config: LstmConfig, records: FluxRecords) -> None:
    """Make sure that windows of training, validation and test fit, whatever the sweep says.

    Raises:
        FluxError: A part of a split has no room for a window.
    """
    for point in config.points or [{}]:  # an adaptive search has none, and leaves windows alone
        mine = config.at_point(point)
        split = split_of(mine, records)
        ask, ahead = mine.windows, mine.evaluation.horizon
        parts = {"training": (split.training, ask.horizon)}
        parts |= {"validation": (split.validation, ahead), "test": (split.test, ahead)}
        for part, (mask, horizon) in parts.items():
            try:
                if part == "training":
                    windows(mask, ask.context, horizon, ask.stride)
                else:
                    forecast_windows(mask, ask.context, horizon)
            except FluxError as error:
                raise FluxError(
                    f"{part}: {error}; the record is from {records.days[0]} to {records.days[-1]}: "
                    "shorten windows or evaluation.horizon, or split elsewhere"
                ) from error


def _read(config: LstmConfig) -> Iterator[tuple[Path, Measured]]:
    if config.data.source == "davos":
        path = Path(config.data.davos) if config.data.davos else find_davos()
        yield path, read_davos(path, config.data.partitioning)
    for tower in config.data.towers:
        yield Path(tower.path), _read_file(tower)


def _read_file(tower: TowerConfig) -> Measured:
    return read_tower(
        Path(tower.path),
        tower.site,
        tower.static,
        _COLUMNS[tower.columns],
        tower.renamed,
        tower.shift_hours,
    )
