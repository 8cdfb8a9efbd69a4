"""Whether this process would import someone else's package in place of one of ours.

Only the standard library is imported here, so that it can be asked before anything of ours is.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

#: Our top-level packages have plain names, which another distribution may have as well.
PACKAGES = ("jobs", "pipelines", "cluster", "kernels")


def home() -> Path:
    """Where our packages lie."""
    return Path(__file__).parents[1]


def shadows() -> Iterator[tuple[str, str]]:
    """Each package of ours that something else hides, and what was found in its place."""
    for name in PACKAGES:
        found = location(name)
        if found != home() / name:
            where = "none" if found is None else str(found)
            yield name, f"expected the package in {home()}, found {where}, which hides it"


def location(name: str) -> Path | None:
    """The folder that a top-level package would be imported from."""
    # What is imported already stays, whatever came to the head of the path since.
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None:
        return Path(loaded).parent
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None
