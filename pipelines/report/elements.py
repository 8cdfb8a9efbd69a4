"""Facts, tables and pictures as HTML. All text is escaped."""

import base64
from collections.abc import Sequence
from html import escape

from pipelines.report.content import Fact, Link, Measured, Picture, Section, Table

#: What every PNG begins with.
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A wider picture is not squeezed on a phone: it is scrolled inside its frame.
_WIDE_PIXELS = 1200


def section_html(section: Section) -> str:
    """All that a section holds, below its heading.

    Raises:
        ValueError: A table's rows and columns differ, a picture is no PNG or has no words.
        OSError: A picture cannot be read.
    """
    parts = [paragraph(section.lead)] if section.lead else []
    if section.facts:
        parts.append(facts_html(section.facts))
    if section.pictures:
        gallery = "\n".join(map(picture_html, section.pictures))
        parts.append(f'<div class="gallery">\n{gallery}\n</div>')
    for table in section.tables:
        parts += [f"<h3>{escape(table.title)}</h3>", table_html(table)]
    return "\n".join(parts)


def paragraph(text: str) -> str:
    """A sentence in the muted tone of remarks."""
    return f'<p class="lead">{escape(text)}</p>'


def details(summary: str, body: str) -> str:
    """What is shown to those who open it, or whose screen reader reads it."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def facts_html(facts: Sequence[Fact]) -> str:
    """Facts as a list of cards."""
    cells = []
    for fact in facts:
        note = f'<dd class="note">{escape(fact.note)}</dd>' if fact.note else ""
        value = f'<dd class="value">{escape(text_of(fact.value))}</dd>'
        cells.append(f"<div><dt>{escape(fact.label)}</dt>{value}{note}</div>")
    return f'<dl class="facts">{"".join(cells)}</dl>'


def table_html(table: Table) -> str:
    """A table in a frame of its own, which scrolls where it is wider than the page.

    Raises:
        ValueError: Its rows and columns differ.
    """
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
    by = f' data-filtered="{escape(table.filtered)}"' if table.filtered else ""
    return (
        f'<div class="sheet">{remark}<div class="scroll" tabindex="0" role="region" {name}>'
        f"<table {name}{by}><thead>{head}</thead>\n<tbody>{body}</tbody></table></div></div>"
    )


def text_of(value: object) -> str:
    """Four digits of a float; what is not known is a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_numeric(column: Sequence[object]) -> bool:
    known = [value for value in column if value is not None]
    return bool(known) and all(type(value) in (int, float, Measured) for value in known)


def _row(tags: Sequence[str], cells: Sequence[object]) -> str:
    return "<tr>" + "".join(map(_cell, tags, cells)) + "</tr>"


def _cell(tag: str, value: object) -> str:
    told = value.text if isinstance(value, Link | Measured) else value
    content, attributes = escape(text_of(told)), tag.strip()
    if isinstance(value, Link):
        content = f'<a href="{escape(value.target)}">{content}</a>'
    if isinstance(value, Measured):
        attributes += f' data-value="{value.value:g}"'
    return f"<{attributes}>{content}</{tag.split()[0]}>"


def picture_html(picture: Picture) -> str:
    """A picture inside the page, with its caption.

    Raises:
        ValueError: It is no PNG or has no words.
        OSError: It cannot be read.
    """
    png = picture.png.read_bytes()
    if not png.startswith(SIGNATURE):
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
