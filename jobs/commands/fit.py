"""``fit``: Gaussian mixtures of a store of gridded densities."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.commands.bar import progress_bar
from jobs.commands.exits import FAILED, OK, USAGE

if TYPE_CHECKING:
    from pipelines.mixtures import Summary

_KINDS = ("point_density", "cell_mass", "histogram")


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    fit = commands.add_parser("fit", help="fit Gaussian mixtures to gridded densities")
    fit.add_argument("densities", type=Path, help="Zarr group with densities (B, N) and their grid")
    fit.add_argument(
        "-o", "--out", type=Path, help="the Zarr group to make (default: NAME-mixtures.zarr beside)"
    )
    fit.add_argument(
        "-k", "--components", type=int, default=5, metavar="K", help="1 to 16 (default: 5)"
    )
    fit.add_argument("--array", metavar="NAME", help="the array of densities (default: found)")
    fit.add_argument("--grid", metavar="NAME", help="the array of points or edges (default: found)")
    fit.add_argument("--kind", choices=_KINDS, help="what the values are (default: as stored)")
    fit.add_argument(
        "--model",
        metavar="FILE",
        help="a learned refiner, 'shipped' for the package's (default: the classical solver)",
    )
    fit.add_argument(
        "--replace", action="store_true", help="mend rows that are no densities, for NaN in the fit"
    )
    fit.add_argument("--json", action="store_true", help="print JSON for a program to read")
    fit.set_defaults(handler=_fit)


def _fit(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.components <= 16:
        print(
            f"yaoki: --components: expected 1 to 16, found {arguments.components}", file=sys.stderr
        )
        return USAGE
    from pipelines.mixtures import DensityError, ModelError, fit_store, open_densities

    begun = time.perf_counter()
    out = arguments.out or _beside(arguments.densities)
    try:
        densities = open_densities(
            arguments.densities, arguments.array, arguments.grid, arguments.kind
        )
        with progress_bar("densities") as progress:
            summary = fit_store(
                densities,
                out,
                arguments.components,
                model=arguments.model,
                policy="replace" if arguments.replace else "report",
                progress=progress,
            )
    except (DensityError, ModelError) as error:
        print(f"yaoki: {error}", file=sys.stderr)
        return FAILED
    seconds = time.perf_counter() - begun
    if arguments.json:
        print(json.dumps(_record(out, summary, seconds), indent=1))
    else:
        print("\n".join(_lines(out, summary, seconds)))
    return OK


def _beside(densities: Path) -> Path:
    path = densities.resolve()
    return path.with_name(f"{path.stem}-mixtures.zarr")


def _record(out: Path, summary: "Summary", seconds: float) -> dict[str, object]:
    """The summary; what cannot be told is None, as JSON has no NaN."""
    values = summary._asdict()
    plain = {k: None if v != v else v for k, v in values.items()}
    return {"out": str(out), **plain, "seconds": round(seconds, 3)}


def _lines(out: Path, summary: "Summary", seconds: float) -> Iterator[str]:
    each = seconds / max(1, summary.densities) * 1e6
    yield (
        f"{out}: mixtures of {summary.fitted} of {summary.densities} densities, "
        f"{seconds:.1f} s, {each:.0f} us each"
    )
    if summary.fitted:
        yield (
            f"divergence in nats: mean {summary.kl_mean:.2e}, median {summary.kl_median:.2e}, "
            f"99 % below {summary.kl_p99:.2e}"
        )
    found = {name.replace("_", " "): count for name, count in summary.flags.items() if count}
    if found:
        yield "flagged: " + ", ".join(f"{count} {name}" for name, count in found.items())
