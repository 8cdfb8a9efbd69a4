"""What any job may put under ``report/`` for the page: PNGs, and tables as JSON."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.report.content import Picture, Section, Table
from pipelines.report.elements import SIGNATURE
from pipelines.report.stored import load_sections

_TABLE = ".table.json"
_END = b"IEND\xaeB`\x82"
#: Of pictures and of rows: the page of a large run is one file of a few megabytes.
_MOST_BYTES, _MOST_ROWS = 2**21, 500


def shown_sections(run: Path) -> list[Section]:
    """What a workload shows: the sections that it has saved, and one of what else it has left.

    Raises:
        RunError: A saved section cannot be read.
    """
    saved = load_sections(run)
    taken = {picture.png.name for section in saved for picture in section.pictures}
    left = loose_section(run, taken)
    return saved if left is None else [*saved, left]


def loose_section(run: Path, taken: set[str]) -> Section | None:
    """Pictures ``report/*.png`` and tables ``report/*.table.json``; None where there is none.

    What cannot be shown is named, with the reason, and the rest is.

    Args:
        run: The run directory.
        taken: Names of pictures that are shown elsewhere.
    """
    problems: list[str] = []
    found = [file for file in sorted((run / "report").glob("*.png")) if file.name not in taken]
    pictures = list(_pictures(found, problems))
    tables = [
        table
        for file in sorted((run / "report").glob(f"*{_TABLE}"))
        if (table := _table(file, problems)) is not None
    ]
    if not (pictures or tables or problems):
        return None
    return Section("Figures and tables", " ".join(problems), (), pictures, tables)


def _pictures(files: Sequence[Path], problems: list[str]) -> Iterator[Picture]:
    left = _MOST_BYTES
    for file in files:
        content = file.read_bytes()
        if not (content.startswith(SIGNATURE) and content.endswith(_END)):
            problems.append(f"{file.name} is no PNG, or not a whole one.")
        elif len(content) > left:
            problems.append(f"{file.name} is not shown: {len(content):,} bytes are too many here.")
        else:
            left -= len(content)
            words = _words(content)
            caption = words.get("Title") or file.stem.replace("_", " ").replace("-", " ")
            none = f"{caption}; the picture came without a description"
            yield Picture(caption, words.get("Description") or none, file)


def _words(png: bytes) -> dict[str, str]:
    """The texts inside a PNG by keyword, as ``savefig(..., metadata=...)`` writes them."""
    found, at = {}, len(SIGNATURE)
    while at + 8 <= len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        keyword, _, text = png[at + 8 : at + 8 + length].partition(b"\0")
        if kind == b"tEXt":
            found[keyword.decode("latin-1")] = text.decode("latin-1")
        elif kind == b"iTXt" and text[:2] == b"\0\0":  # not compressed; language, translation
            found[keyword.decode("latin-1")] = text[2:].split(b"\0", 2)[-1].decode(errors="replace")
        at += 12 + length
    return found


def _table(file: Path, problems: list[str]) -> Table | None:
    try:
        records = json.loads(file.read_bytes())
        columns = list(dict.fromkeys(key for record in records for key in record))
        rows = [[_cell(record.get(key)) for key in columns] for record in records[:_MOST_ROWS]]
    except (ValueError, TypeError, AttributeError, KeyError):
        problems.append(f"{file.name}: expected a list of objects, one for each row.")
        return None
    if not columns:
        problems.append(f"{file.name} has no rows.")
        return None
    cut = f"The first {_MOST_ROWS} of {len(records)} rows." if len(records) > _MOST_ROWS else ""
    return Table(file.name.removesuffix(_TABLE).replace("_", " "), columns, rows, cut)


def _cell(value: Any) -> object:
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
