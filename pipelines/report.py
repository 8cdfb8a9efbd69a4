"""The page of a run: one HTML file with its pictures inside, for a browser and for a printer."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from cluster.files import write_atomic

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A wider picture is not squeezed on a phone: it is scrolled inside its frame.
_WIDE_PIXELS = 1200


@dataclass(frozen=True)
class Fact:
    """One line of the summary: what, how much, and a remark under it."""

    label: str
    value: object
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first cell of a row names it, and numbers are set to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG with a caption for all and a text for those who do not see it.

    Args:
        caption: Printed under the picture.
        alt: What the picture shows, in words.
        png: The file, or its bytes.
    """

    caption: str
    alt: str
    png: Path | bytes


def write_report(
    run_dir: Path,
    title: str,
    facts: Sequence[Fact],
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
    lead: str = "",
) -> Path:
    """Write ``report/index.html`` of a run, whole at any time.

    All text is escaped. The page loads nothing, so it can be mailed or copied off the cluster.

    Args:
        run_dir: The run's directory.
        title: Heading of the page.
        facts: The summary, the most important first.
        tables: Shown after the pictures.
        pictures: Shown after the summary.
        lead: A sentence under the heading.

    Returns:
        Path of the page.

    Raises:
        ValueError: A table's rows and columns differ, a picture is no PNG or has no words.
        OSError: A picture cannot be read or the page cannot be written.
    """
    sections = [("summary", "Summary", _facts(facts))] if facts else []
    if pictures:
        gallery = "\n".join(_picture(picture) for picture in pictures)
        sections.append(("figures", "Figures", f'<div class="gallery">\n{gallery}\n</div>'))
    sections += [(f"table-{i}", table.title, _table(table)) for i, table in enumerate(tables)]
    template = Template(resources.files("pipelines").joinpath("report.html").read_text("utf-8"))
    page = template.substitute(
        title=escape(title),
        lead=escape(lead),
        links="".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections),
        sections="\n".join(_section(*section) for section in sections),
    )
    target = run_dir / "report" / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, page.encode())
    return target


def _section(key: str, name: str, body: str) -> str:
    heading = f'<h2 id="{key}-title">{escape(name)}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">\n{heading}\n{body}\n</section>'


def _facts(facts: Sequence[Fact]) -> str:
    cells = []
    for fact in facts:
        note = f'<dd class="note">{escape(fact.note)}</dd>' if fact.note else ""
        value = f'<dd class="value">{escape(_text(fact.value))}</dd>'
        cells.append(f"<div><dt>{escape(fact.label)}</dt>{value}{note}</div>")
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _table(table: Table) -> str:
    if any(len(row) != len(table.columns) for row in table.rows):
        raise ValueError(f"table {table.title!r}: rows and columns {table.columns} do not match")
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    right = ['class="number"' if _is_numeric(column) else "" for column in columns]
    head = _row([f'th scope="col" {style}' for style in right], table.columns)
    styles = ['th scope="row"', *(f"td {style}" for style in right[1:])]
    body = "\n".join(_row(styles, row) for row in table.rows)
    # Beside the table and not its <caption>, which would scroll away with it on a phone.
    remark = f'<p class="remark">{escape(table.caption)}</p>' if table.caption else ""
    name = f'aria-label="{escape(table.title)}"'
    return (
        f'<div class="sheet">{remark}<div class="scroll" tabindex="0" role="region" {name}>'
        f"<table {name}><thead>{head}</thead>\n<tbody>{body}</tbody></table></div></div>"
    )


def _is_numeric(column: Sequence[object]) -> bool:
    known = [value for value in column if value is not None]
    return bool(known) and all(type(value) in (int, float) for value in known)


def _row(tags: Sequence[str], cells: Sequence[object]) -> str:
    return "<tr>" + "".join(map(_cell, tags, cells)) + "</tr>"


def _cell(tag: str, value: object) -> str:
    return f"<{tag.strip()}>{escape(_text(value))}</{tag.split()[0]}>"


def _text(value: object) -> str:
    """Four digits of a float; what is not known is a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(picture: Picture) -> str:
    png = picture.png if isinstance(picture.png, bytes) else picture.png.read_bytes()
    if not png.startswith(_SIGNATURE):
        raise ValueError(f"picture {picture.caption!r}: not a PNG")
    if not picture.alt.strip():
        raise ValueError(f"picture {picture.caption!r}: needs a text for those who do not see it")
    # The header chunk follows the signature: length, "IHDR", width, height.
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    # Two pixels of the picture to one of the page: sharp on the screens of phones and laptops.
    size = f'width="{width // 2}" height="{height // 2}"'
    image = f'<img src="{source}" alt="{escape(picture.alt)}" {size}>'
    caption, kind, scrolls = escape(picture.caption), "sheet", ""
    if width > _WIDE_PIXELS:
        kind, scrolls = "sheet wide", f' tabindex="0" role="region" aria-label="{caption}"'
        caption += ' <span class="hint">Scroll the picture sideways to see all of it.</span>'
    return (
        f'<figure class="{kind}"><div class="paper"{scrolls}>{image}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
