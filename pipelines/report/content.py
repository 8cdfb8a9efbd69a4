"""What a page can hold: facts, tables, pictures, and a section of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fact:
    """One line of a summary: what, how much, and a remark under it."""

    label: str
    value: object
    note: str = ""


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file.

    Args:
        text: What it says.
        target: A relative address, quoted as addresses are.
    """

    text: str
    target: str


@dataclass(frozen=True)
class Measured:
    """A cell whose rows are sorted by its value and not by how that is written."""

    value: float
    text: str


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first cell of a row names it, and numbers are set to the right.

    Args:
        title: Its heading, or its name where it stands below another heading.
        columns: Their headings.
        rows: Numbers, words, :class:`Link`, :class:`Measured`, or None for what is not known.
        caption: A remark above it.
        filtered: The heading of the column by which a reader may choose rows, if any.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    filtered: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG with a caption for all and a text for those who do not see it.

    Args:
        caption: Printed under the picture.
        alt: What the picture shows, in words.
        png: The file.
    """

    caption: str
    alt: str
    png: Path


@dataclass(frozen=True)
class Section:
    """What a workload has to show of a run; the first facts are the most important.

    Args:
        title: Its heading.
        lead: A sentence under it.
        facts: Shown first.
        pictures: Shown after the facts.
        tables: Shown last.
    """

    title: str
    lead: str = ""
    facts: Sequence[Fact] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
