"""Fits of Gaussian mixtures to gridded densities: quality and time of every method, in one run.

Densities of 14 families with exact cell masses (``kernels/gmm/families.py``), a fresh seed each
time unless one is given, one thread. Times are of the processor, so other work on the machine does
not enter, beyond what it takes from the caches; batched means all densities in one call.

    python -m benchmarks.gmm                         # 896 densities, K = 3, 5, 8
    python -m benchmarks.gmm --densities 100000 --components 5 --only "EM 200" "classical (yaoki)"
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import torch

from benchmarks.mixtures.contenders import Contender, contenders
from benchmarks.mixtures.measures import Quality, Trial
from kernels.gmm.families import FAMILIES, HELD_OUT
from pipelines.mixtures import fit_mixture
from pipelines.mixtures.learned import SHIPPED

_COLUMNS = {
    "densities": "densities",
    "kl_mean": "KL mean",
    "kl_median": "median",
    "cdf_mean": "CDF mean",
    "cdf_worst": "worst",
    "tail_median": "3s median",
    "tail_p95": "p95",
    "near": "near EM200",
    "unseen": "held out",
    "finite": "finite",
    "batched_us": "us batched",
    "single_us": "single",
}
_SINGLES = 21


def main() -> None:
    """Measure, print the tables, and with ``--json`` write the numbers too."""
    arguments = _arguments()
    torch.set_num_threads(1)
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4))
    trial = Trial(arguments.densities, arguments.points, seed)
    print(
        f"seed {seed}: {arguments.densities} densities of {len(FAMILIES)} families on "
        f"{arguments.points} points, {int(trial.resolved.sum())} resolved"
    )
    record: dict[str, Any] = {"seed": seed, "densities": arguments.densities, "components": {}}
    for components in arguments.components:
        methods = contenders(arguments.model, seed)
        chosen = [m for m in methods if not arguments.only or m.name in arguments.only]
        found = _measure_all(chosen, trial, components, arguments.slow)
        record["components"][components] = found
        _print_table(components, found)
        if arguments.model is not None:
            laws = record.setdefault("learned", {})
            laws[components] = _print_laws(trial, components, arguments.model)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--densities", type=int, default=896)
    parser.add_argument("--points", type=int, default=96)
    parser.add_argument("--components", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--seed", type=int, help="default: fresh")
    parser.add_argument("--slow", type=int, default=4, help="densities a family for slow methods")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="some of the methods")
    default = "shipped" if SHIPPED.exists() else None
    parser.add_argument("--model", default=default, help="of the learned method")
    parser.add_argument("--json", type=Path, help="write the numbers to a file")
    return parser.parse_args()


def _measure_all(
    methods: list[Contender], trial: Trial, components: int, slow: int
) -> dict[str, dict[str, Any]]:
    qualities: dict[str, Quality] = {}
    found: dict[str, dict[str, Any]] = {}
    for method in methods:
        rows = trial.few(slow) if method.slow else torch.arange(len(trial.family))
        batched, single, quality = _measure(method, trial, rows, components)
        qualities[method.name] = quality
        found[method.name] = {
            **quality.summary(trial),
            **_against(quality, qualities.get("EM 200"), trial),
            "batched_us": batched,
            "single_us": single,
            "families": quality.by_family(trial),
        }
    return found


def _measure(
    method: Contender, trial: Trial, rows: torch.Tensor, components: int
) -> tuple[float, float, Quality]:
    """Microseconds a density, in one call and alone, and the quality."""
    part = trial.gridded.rows(rows)
    method.fit(part.rows(torch.arange(2)), components)  # compiled, loaded
    begun = time.process_time()
    m = method.fit(part, components)
    batched = (time.process_time() - begun) / len(rows)
    alone = []
    for row in torch.linspace(0, len(rows) - 1, _SINGLES if not method.slow else 3).long():
        one = part.rows(row[None])
        begun = time.process_time()
        method.fit(one, components)
        alone.append(time.process_time() - begun)
    return batched * 1e6, statistics.median(alone) * 1e6, trial.measured(m, rows)


def _against(quality: Quality, em: Quality | None, trial: Trial) -> dict[str, float]:
    """Share of densities with at most max(2 x EM 200, 1e-4), and ratio on held-out families."""
    if em is None:
        return {}
    theirs = em.kl[quality.rows]
    near = quality.kl <= torch.maximum(2 * theirs, torch.tensor(1e-4))
    unseen = trial.held_out[quality.rows]
    ratio = quality.kl[unseen].mean() / theirs[unseen].mean()
    return {"near": float(near.double().mean()), "unseen": float(ratio)}


def _print_table(components: int, found: dict[str, dict[str, Any]]) -> None:
    print(
        f"\nK = {components}: resolved densities; 3 sigma on maxima, in sd; times in us a density"
    )
    print("method".ljust(22) + "".join(title.rjust(11) for title in _COLUMNS.values()))
    for name, row in found.items():
        values = (_shown(key, row.get(key)) for key in _COLUMNS)
        print(name.ljust(22) + "".join(value.rjust(11) for value in values))
    print("\nKL mean by family (* never trained on)")
    print("family".ljust(22) + "".join(name[:14].rjust(15) for name in found))
    for family in FAMILIES:
        values = (f"{row['families'][family]:.2e}" for row in found.values())
        label = family + (" *" if family in HELD_OUT else "")
        print(label.ljust(22) + "".join(value.rjust(15) for value in values))


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key in ("near", "finite"):
        return f"{100 * value:.2f}%"
    if key == "kl_mean":
        return f"{value:.3g}"
    whole = key == "densities" or key.endswith("_us")
    return f"{value:.0f}" if whole else f"{value:.2g}"


def _print_laws(trial: Trial, components: int, model: str) -> dict[str, float]:
    """How often the learned fits fall back, and what a shift and a change of units alter."""
    masses, edges = trial.gridded.masses, trial.gridded.edges[0]
    plain = fit_mixture(masses, edges, components, kind="cell_mass", model=model)
    moved = fit_mixture(masses, (edges + 7.3) * 1e-12, components, kind="cell_mass", model=model)
    altered = float((plain.kl - moved.kl).abs().max())
    print(f"learned: fallback {100 * plain.fallback_rate:.2f} %; a shift and picoseconds alter KL")
    print(f"by at most {altered:.1e}")
    return {"fallback_rate": plain.fallback_rate, "altered": altered}


if __name__ == "__main__":
    main()
