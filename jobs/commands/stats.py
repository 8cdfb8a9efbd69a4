"""``stats``: what the members of an ensemble agree on, and how far to trust it."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.commands.bar import progress_bar
from jobs.commands.exits import FAILED, OK, UNAVAILABLE
from jobs.commands.selection import add_run_argument, find_run

if TYPE_CHECKING:
    import xarray

_SCORES = ("points", "spread_rms", "rmse", "crps", "spread_error_ratio")


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    stats = commands.add_parser("stats", help="statistics over the members of the ensemble")
    add_run_argument(stats)
    stats.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="HDF5 or Zarr with arrays of the same names (default: the run's truth.h5 or .zarr)",
    )
    stats.add_argument(
        "--out", type=Path, help="write mean, spread and quantiles of every point to a Zarr store"
    )
    stats.add_argument(
        "--memory", type=_bytes, default="256M", help="for the members in work (default: 256M)"
    )
    stats.add_argument("--json", action="store_true", help="print JSON for a program to read")
    stats.set_defaults(handler=_stats)


def _stats(arguments: argparse.Namespace) -> int:
    run = find_run(arguments)
    if find_spec("xarray") is None:
        print("yaoki: statistics need xarray: pip install 'yaoki[xarray]'", file=sys.stderr)
        return UNAVAILABLE
    from pipelines.ensemble import EnsembleError

    try:
        found = _computed(run / "ensemble.zarr", arguments)
    except EnsembleError as error:
        print(f"yaoki: {error}", file=sys.stderr)
        return FAILED
    arrays = _by_array(found)
    if arguments.json:
        out = str(arguments.out) if arguments.out else None
        record = {"run": str(run), "members": found.attrs["members"], "out": out}
        print(json.dumps({**record, "arrays": arrays}, indent=1))
    else:
        print("\n".join(_lines(arrays)))
    return OK


def _bytes(text: str) -> int:
    from cluster.scheduler.quantities import MemorySize

    try:
        return MemorySize.parse(text).bytes
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _computed(path: Path, arguments: argparse.Namespace) -> "xarray.Dataset":
    from pipelines.statistics import ensemble_statistics, open_truth, truth_of

    file = arguments.truth or truth_of(path.parent)
    with ExitStack() as stack:
        truth = stack.enter_context(open_truth(file, path)) if file else {}
        progress = stack.enter_context(progress_bar("chunks"))
        return ensemble_statistics(
            path,
            truth,
            out=arguments.out,
            fields=False,
            memory=arguments.memory,
            progress=progress,
        )


def _by_array(found: "xarray.Dataset") -> dict[str, dict[str, Any]]:
    """The scores of each array; what cannot be told is None, as JSON has no NaN."""
    arrays: dict[str, dict[str, Any]] = {}
    for name in (str(n).removesuffix("_points") for n in found if str(n).endswith("_points")):
        scores = {s: found.get(f"{name}_{s}") for s in _SCORES}
        values = {s: None if v is None else v.item() for s, v in scores.items()}
        finite = {s: None if v is None or v - v != 0 else v for s, v in values.items()}
        histogram = found.get(f"{name}_rank_histogram")
        ranks = None if histogram is None else histogram.values.tolist()
        arrays[name] = {**finite, "rank_histogram": ranks}
    return arrays


def _lines(arrays: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "array".ljust(16) + "".join(f"{name.replace('_', ' '):>20}" for name in _SCORES)
    for name, scores in arrays.items():
        values = (scores[s] for s in _SCORES)
        yield name.ljust(16) + "".join(f"{'' if v is None else f'{v:.6g}':>20}" for v in values)
    for name, scores in arrays.items():
        if scores["rank_histogram"]:
            yield f"ranks of {name}: " + " ".join(map(str, scores["rank_histogram"]))
