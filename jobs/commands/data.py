"""``repack``: a trajectory file as training wants to read it."""

import argparse
import json
import sys
import warnings
from pathlib import Path

from jobs.commands.exits import FAILED, OK


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command of this module."""
    repack = commands.add_parser("repack", help="write a trajectory file anew, contiguous")
    repack.add_argument("old", type=Path, help="any HDF5 file with x (n, T, C, H, W) in float32")
    repack.add_argument("new", type=Path, help="the file to make; whole or not at all")
    repack.add_argument("--json", action="store_true", help="print JSON for a program to read")
    repack.set_defaults(handler=_repack)


def _repack(arguments: argparse.Namespace) -> int:
    from pipelines.trajectories import (
        SlowLayoutWarning,
        TrajectoryError,
        TrajectoryFile,
        rewrite,
    )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowLayoutWarning)  # mending it is what we are here for
            old = TrajectoryFile(arguments.old)
        written = rewrite(arguments.old, arguments.new)
        new = TrajectoryFile(arguments.new)
    except TrajectoryError as error:
        print(f"yaoki: {error}", file=sys.stderr)
        return FAILED
    frames = min(5, old.shape[1])
    before, after = (file.window_seconds(frames) * 1e3 for file in (old, new))
    if arguments.json:
        record = {"written": written, "shape": old.shape, "window_frames": frames}
        times = {"old_milliseconds": before, "new_milliseconds": after}
        print(json.dumps({"old": str(old.path), "new": str(new.path), **record, **times}))
        return OK
    done = "written" if written else "was there already, with the same trajectories' attributes"
    print(
        f"{new.path} {done}; a window of {frames} frames takes {after:.2f} ms, "
        f"in {old.path} {before:.2f} ms"
    )
    return OK
