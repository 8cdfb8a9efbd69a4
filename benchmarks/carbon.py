"""Time and carbon budget of the process model; what is found in files of towers.

Seconds are of the processor: they hold on a machine that is shared.

    python -m benchmarks.carbon                    # 384 sites of 6 years, on one core
    python -m benchmarks.carbon --davos [FILE]     # the report on the file, or installed diive's
    python -m benchmarks.carbon --tower FILE       # of FLUXNET's, by two choices of its columns
"""

import argparse
import time
from pathlib import Path

import numpy as np

from pipelines.fluxes import (
    FLUXNET,
    FLUXNET_USTAR50,
    SiteRun,
    read_davos,
    read_tower,
    simulate_sites,
)


def simulated(sites: int, years: int) -> None:
    """Print what a run of the process model takes, and how well its carbon is kept."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = simulate_sites(SiteRun(seed=0, sites=sites, years=years), range(sites))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gpp, npp, nep, rh = np.moveaxis(made.records.fluxes, -1, 0)
    total = made.pools.sum(axis=-1)
    by_day = np.abs(np.diff(total, axis=1) - nep).max()
    in_all = np.abs(total[:, -1] - total[:, 0] - nep.sum(axis=1)).max()
    lowest = min(gpp.min(), rh.min(), made.pools.min())
    print(f"{sites} sites x {years} years: {cpu:.1f} s of one core, {wall:.1f} s by the clock")
    print(f"carbon unaccounted for: {by_day:.1e} gC m-2 in a day, {in_all:.1e} in the record")
    print(
        f"lowest of GPP, Rh and pools: {lowest:.2g}; sites redrawn: {(made.draws > 0).mean():.0%}"
    )
    for name, flux in (("GPP", gpp), ("NPP", npp), ("NEP", nep), ("Rh", rh)):
        low, middle, high = np.percentile(365.25 * flux.mean(axis=1), [10, 50, 90])
        print(f"{name}: median {middle:.0f} gC m-2 a-1, p10 {low:.0f}, p90 {high:.0f}")


def main() -> None:
    """Print one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=384)
    parser.add_argument("--years", type=int, default=6)
    parser.add_argument("--davos", nargs="?", const="", metavar="FILE")
    parser.add_argument("--tower", type=Path, metavar="FILE")
    ask = parser.parse_args()
    if ask.tower is not None:
        for columns in (FLUXNET, FLUXNET_USTAR50):
            print(columns.nee, *read_tower(ask.tower, "", {}, columns).findings.lines(), sep="\n  ")
    elif ask.davos is not None:
        print("\n".join(read_davos(Path(ask.davos) if ask.davos else None).findings.lines()))
    else:
        simulated(ask.sites, ask.years)


if __name__ == "__main__":
    main()
