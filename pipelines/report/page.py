"""The page: one HTML file with all that it shows inside, for a browser and for a printer."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from cluster.records.files import write_atomic

_FOOTER = "One file: nothing is loaded from the network."


@dataclass(frozen=True)
class Block:
    """A part of the page under a heading of its own.

    Args:
        key: Its anchor, one word.
        title: The heading.
        html: What stands below it.
    """

    key: str
    title: str
    html: str


def write_page(
    target: Path,
    title: str,
    lead: str,
    blocks: Sequence[Block],
    refresh: float | None = None,
    footer: str = "",
) -> None:
    """Write a page, whole at any time, that loads nothing and runs nothing but its own script.

    It can be mailed or copied off the cluster. The script is a comfort: without it there is as
    much to read.

    Args:
        target: The file; its directory is made.
        title: Heading of the page.
        lead: A sentence under the heading.
        blocks: What it holds.
        refresh: Seconds after which a browser is to load it again, or None for never.
        footer: A sentence at its end.

    Raises:
        OSError: It cannot be written.
    """
    style, script = _read("page.css"), _read("page.js")
    page = Template(_read("page.html")).substitute(
        style=style,
        script=script,
        style_hash=_digest(style),
        script_hash=_digest(script),
        refresh=_refresh(refresh),
        switch=_switch(refresh),
        title=escape(title),
        lead=escape(lead),
        links="".join(f'<li><a href="#{b.key}">{escape(b.title)}</a></li>' for b in blocks),
        sections="\n".join(map(_section, blocks)),
        footer=escape(f"{footer} {_FOOTER}".strip()),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, page.encode())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    """How the page's policy names the one script and the one style that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _refresh(seconds: float | None) -> str:
    # Only for browsers without script: with it, the reader can stop the refreshing.
    if seconds is None:
        return ""
    return f'<noscript><meta http-equiv="refresh" content="{seconds:g}"></noscript>'


def _switch(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f'<p><label><input type="checkbox" id="refresh" data-seconds="{seconds:g}" checked> '
        f"load again every {seconds:g} s</label></p>"
    )


def _section(block: Block) -> str:
    name = f"{block.key}-title"
    heading = f'<h2 id="{name}">{escape(block.title)}</h2>'
    return (
        f'<section id="{block.key}" aria-labelledby="{name}">\n{heading}\n{block.html}\n</section>'
    )
