"""Statistics of an ensemble: CPU time and peak memory of yaoki, of xarray on dask, and of NumPy.

    python -m benchmarks.ensemble_statistics                           # 64 members of 16 MiB
    python -m benchmarks.ensemble_statistics --members 512 --megabytes 4

Mean, spread and five quantiles of every point; each way in a process of its own, one thread, with
the results in memory. Dask has chunks of all members in 64 MiB; without dask that way is left out.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def make(path: Path, members: int, megabytes: int) -> None:
    from pipelines.ensemble import ArraySpec, collect, create_ensemble, write_member

    spec = ArraySpec("u", (4 * megabytes, 256, 256), ("time", "y", "x"))
    attributes = {"config_digest": "benchmark"}
    create_ensemble(path, members, [spec], attributes)
    rng = np.random.default_rng(0)
    for member in range(members):
        values = rng.standard_normal(spec.shape, np.float32)
        write_member(path, member, {"u": values}, attributes, fence=1)
    collect(path)


def yaoki(path: Path) -> None:
    from pipelines.statistics import ensemble_statistics

    ensemble_statistics(path, quantiles=LEVELS)


def yaoki_scores(path: Path) -> None:
    from pipelines.ensemble import read_layout
    from pipelines.statistics import ensemble_statistics

    truth = np.zeros(read_layout(path).arrays["u"].shape, np.float32)
    ensemble_statistics(path, {"u": truth}, quantiles=LEVELS)


def xarray_on_dask(path: Path) -> None:
    import dask
    import xarray

    members = xarray.open_zarr(path, chunks=None).sizes["member"]
    rows = max(1, 2**26 // (members * 2**18))
    field = xarray.open_zarr(path, chunks={"member": -1, "time": rows})["u"]
    wanted = (field.mean("member", dtype="f8"), field.astype("f8").std("member", ddof=1))
    with dask.config.set(scheduler="synchronous"):
        dask.compute(*wanted, field.astype("f8").quantile(LEVELS, "member"))


def numpy_at_once(path: Path) -> None:
    import zarr

    field = np.asarray(zarr.open_array(path / "u", mode="r")[:], np.float64)
    field.mean(axis=0), field.std(axis=0, ddof=1), np.quantile(field, LEVELS, axis=0)


WAYS: dict[str, Callable[[Path], None]] = {
    "yaoki": yaoki,
    "yaoki, with scores": yaoki_scores,
    "xarray on dask": xarray_on_dask,
    "numpy, all in memory": numpy_at_once,
}


def cost(way: str, path: Path) -> dict[str, float]:
    """CPU seconds and peak memory (MiB) of one way, imports included."""
    module = "benchmarks.ensemble_statistics"
    command = [sys.executable, "-m", module, "--way", way, "--path", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run_here(way: str, path: Path) -> None:
    WAYS[way](path)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--megabytes", type=int, default=16, help="of a member, in MiB")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        return run_here(arguments.way, arguments.path)
    folder = Path(tempfile.mkdtemp(prefix="yaoki-statistics-"))
    try:
        make(folder / "ensemble.zarr", arguments.members, arguments.megabytes)
        print(f"{arguments.members} members of {arguments.megabytes} MiB")
        print("| way | CPU s | peak MiB |\n|---|---|---|")
        for way in WAYS:
            if way != "xarray on dask" or find_spec("dask"):
                found = cost(way, folder / "ensemble.zarr")
                print(f"| {way} | {found['cpu']:.1f} | {found['peak']:.0f} |", flush=True)
    finally:
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
