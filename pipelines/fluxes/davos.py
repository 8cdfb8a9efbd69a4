"""CH-DAV, a spruce forest in the Alps, 2013 to 2022, as the package diive ships it.

diive is licensed under GPL-3.0. It is not a dependency: its file is found through the metadata of
what is installed, and nothing of it is imported.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from pipelines.fluxes.columns import CH_DAV, CH_DAV_DAY
from pipelines.fluxes.eddy import Measured, read_tower
from pipelines.fluxes.records import FluxError

SITE = "CH-DAV"
# Of the tower, from the site's page at ICOS.
STATIC = {"latitude": 46.8153, "longitude": 9.8559, "elevation": 1639.0}
_FILE = "PARQUET_CH-DAV_FP2022.5_2013-2022"


def find_davos() -> Path:
    """Where the installed diive has the file.

    Raises:
        FluxError: diive is not installed, or this version has no such file.
    """
    try:
        package = distribution("diive")
    except PackageNotFoundError as error:
        raise FluxError(
            "CH-DAV comes with diive, which is not installed (it is GPL-3.0, so not with us): "
            "pip install --no-deps diive pyarrow, or give the path of a file"
        ) from error
    files = [entry for entry in package.files or [] if _FILE in entry.name]
    if not files:
        raise FluxError(f"diive {package.version} has no file {_FILE}*; known to be in 0.90.0")
    return Path(str(package.locate_file(files[0])))


def read_davos(
    path: Path | None = None, partitioning: Literal["night", "day"] = "night"
) -> Measured:
    """Daily fluxes of CH-DAV.

    Args:
        path: The Parquet file; that of the installed diive where it is not given.
        partitioning: From which hours respiration was found. By ``night``, GPP = RECO - NEE;
            by ``day``, both are of a light curve, and the three do not add up.

    Raises:
        FluxError: The file is not there, or not what it should be.
    """
    columns = CH_DAV if partitioning == "night" else CH_DAV_DAY
    return read_tower(path or find_davos(), SITE, STATIC, columns)
