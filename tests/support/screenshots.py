"""Photograph a page in Chromium, as the README shows it: ``python -m support.screenshots``."""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from support.browser import Browser

#: Names, from where on, widths, heights, and whether in the dark.
_WINDOWS = (
    ("report.png", "#timeline", 1200, 1200, False),
    ("report-ensemble.png", "#agreement", 1200, 1070, False),
    ("report-phone.png", "#timeline", 390, 1200, True),
)
_SCROLL = "document.querySelector('{}').scrollIntoView({{behavior: 'instant'}})"


def photograph(page: Path, folder: Path) -> None:
    """Write ``report.png`` and ``report-ensemble.png`` of a laptop, ``report-phone.png``, dark.

    Args:
        page: The page of a run.
        folder: Where to write them.
    """
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        for name, place, width, height, dark in _WINDOWS:
            browser.open(page, width, height, dark)
            browser.run(_SCROLL.format(place))
            _save(browser.screenshot(), folder / name)


def _save(png: bytes, target: Path) -> None:
    """As a palette: a third of the bytes, and nothing that one sees."""
    with Image.open(io.BytesIO(png)) as image:
        every = image.convert("RGB")
        every.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(target, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    photograph(arguments.page, arguments.folder)
