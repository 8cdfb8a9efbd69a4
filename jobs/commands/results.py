"""``collect``, ``verify``: the ensemble that the members made."""

import argparse
import json
import sys
from collections.abc import Mapping

from jobs.commands.exits import FAILED, OK
from jobs.commands.selection import add_run_argument, find_run, workload_of


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module."""
    collect = commands.add_parser("collect", help="verify, seal and evaluate the ensemble")
    add_run_argument(collect)
    collect.add_argument(
        "--partial", action="store_true", help="go on without members that are missing"
    )
    collect.add_argument("--json", action="store_true", help="print JSON for a program to read")
    collect.set_defaults(handler=_collect)
    verify = commands.add_parser("verify", help="check every byte of the ensemble")
    add_run_argument(verify)
    verify.add_argument("--json", action="store_true", help="print JSON for a program to read")
    verify.set_defaults(handler=_verify)


def score_lines(scores: Mapping[str, float]) -> list[str]:
    """A line a score: its name in words, and its value in a column."""
    width = 2 + max(map(len, scores), default=0)
    return [f"{name.replace('_', ' '):<{width}}{value:.4f}" for name, value in scores.items()]


def _collect(arguments: argparse.Namespace) -> int:
    from pipelines.ensemble import EnsembleError, left_out

    run = find_run(arguments)
    workload, config = workload_of(run)
    try:
        scores = workload.collect(config, run, arguments.partial)
        missing = left_out(run / "ensemble.zarr")
    except EnsembleError as error:
        print(f"yaoki: {error}", file=sys.stderr)
        if not arguments.partial:
            print("'yaoki collect --partial' goes on without them", file=sys.stderr)
        return FAILED
    if missing:
        names = ", ".join(map(str, missing))
        print(f"left out: members {names}; NaN in the arrays, False in `valid`", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"run": str(run), "scores": scores, "missing": missing}, indent=1))
    else:
        print("\n".join(score_lines(scores)))
        print(f"report {run / 'report' / 'index.html'}")
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    from pipelines.ensemble import EnsembleError, verify

    run = find_run(arguments)
    try:
        report = verify(run / "ensemble.zarr")
    except EnsembleError as error:
        print(f"yaoki: {error}", file=sys.stderr)
        return FAILED
    if arguments.json:
        record = {"ok": report.ok, "complete": report.complete, "seal": report.seal}
        print(json.dumps({"run": str(run), **record, "lines": report.lines()}, indent=1))
    else:
        print("\n".join(report.lines()))
    return OK if report.ok else FAILED
