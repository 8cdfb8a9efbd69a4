"""Sections that a workload leaves under ``report/``, for whoever composes the page later."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.records.files import write_atomic
from cluster.stage import RunError
from pipelines.report.content import Fact, Picture, Section, Table

_SUFFIX = ".section.json"


def save_section(run: Path, name: str, section: Section) -> Path:
    """Write a section as data beside its pictures, whole at any time.

    The page itself changes for as long as the run does; what the workload found must not be lost
    when it is written anew.

    Args:
        run: The run directory.
        name: Of the file; sections are shown in the order of their names.
        section: What to show. Its pictures lie under ``report/``.

    Raises:
        ValueError: A picture lies elsewhere.
    """
    folder = run / "report"
    record = asdict(section)
    for stored, picture in zip(record["pictures"], section.pictures, strict=True):
        stored["png"] = str(picture.png.relative_to(folder))
    target = folder / f"{name}{_SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(target, json.dumps(record, indent=1).encode())
    return target


def load_sections(run: Path) -> list[Section]:
    """The sections that a workload has left; pictures that have been deleted are left out.

    Raises:
        RunError: One cannot be read.
    """
    return [_load(path) for path in sorted((run / "report").glob(f"*{_SUFFIX}"))]


def _load(path: Path) -> Section:
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        pictures = [
            Picture(**known | {"png": path.parent / known["png"]}) for known in record["pictures"]
        ]
        return Section(
            record["title"],
            record["lead"],
            [Fact(**known) for known in record["facts"]],
            [picture for picture in pictures if picture.png.exists()],
            [Table(**known) for known in record["tables"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: expected a section as 'yaoki collect' writes it, found something else "
            f"({error!r}). Collect again, or delete the file."
        ) from error
