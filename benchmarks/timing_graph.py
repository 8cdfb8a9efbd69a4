"""Arrival times through a timing graph of 10,000 gates, against a million Monte Carlo samples.

The graph, its delays and what is not modeled: ``benchmarks/timing/circuit.py``. Three ways to the
law of the latest arrival, the endpoint's:

* Clark's moment matching with arrivals independent where they meet, and with all covariances;
* mixtures given the global factors (``benchmarks/timing/propagation.py``), on a few values of the
  factors; between those the conditional quantiles are interpolated, and integrated;
* the same with the factors held at zero, where what remains is the gates' own variation: there
  paths that part and meet again are all that matters, and a Gaussian copula shows its limits.

The error is that of the quantile at three sigma, Phi(3), relative to Monte Carlo's, and in standard
deviations of the endpoint.

    python -m benchmarks.timing_graph                              # about 3 minutes on one core
    python -m benchmarks.timing_graph --gates 1000 --samples 100000
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.timing.circuit import FACTORS, Circuit, random_circuit
from benchmarks.timing.clark import endpoint_moments
from benchmarks.timing.monte_carlo import endpoint_samples
from benchmarks.timing.propagation import endpoint
from benchmarks.timing.refit import refit
from kernels.gmm import Mixture, quantile

_NODES = (-2.0, 0.0, 2.0)
_THREE = float(torch.special.ndtr(torch.tensor(3.0, dtype=torch.float64)))


def main() -> None:
    """Measure and print; with ``--json`` write the numbers too."""
    arguments = _arguments()
    torch.set_num_threads(1)
    circuit = random_circuit(arguments.gates, arguments.depth, arguments.seed)
    print(
        f"seed {arguments.seed}: {arguments.gates} gates in {arguments.depth} levels, "
        f"{len(circuit.ends)} ends, {int((circuit.inputs >= 0).sum())} inputs"
    )
    whole = _whole(circuit, arguments)
    local = _local(circuit, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"all": whole, "local": local}, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=10_000)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--components", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers to a file")
    return parser.parse_args()


def _whole(circuit: Circuit, arguments: argparse.Namespace) -> dict[str, Any]:
    """Global factors and the gates' own variation."""
    samples = partial(endpoint_samples, circuit, arguments.samples, arguments.seed)
    one = torch.tensor(_NODES, dtype=torch.float64)
    return _compared("all variation", circuit, samples, torch.cartesian_prod(one, one), arguments)


def _local(circuit: Circuit, arguments: argparse.Namespace) -> dict[str, Any]:
    """The gates' own variation alone."""
    still = dataclasses.replace(circuit, global_shares=np.zeros_like(circuit.global_shares))
    samples = partial(endpoint_samples, still, arguments.samples // 5, arguments.seed + 1)
    nodes = torch.zeros(1, FACTORS, dtype=torch.float64)
    return _compared("the gates' own variation alone", still, samples, nodes, arguments)


def _compared(
    title: str,
    circuit: Circuit,
    samples: Callable[[], NDArray[np.float32]],
    nodes: Tensor,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """One table: every method, and its error of the quantile at three sigma."""
    ways: dict[str, Callable[[], Law]] = {
        "Monte Carlo": lambda: _sampled(samples()),
        "Clark, independent": lambda: _gaussian(*endpoint_moments(circuit, correlated=False)),
        "Clark, covariances": lambda: _gaussian(*endpoint_moments(circuit, correlated=True)),
        f"mixtures, K = {arguments.components}": lambda: _integrated(
            endpoint(circuit, nodes, refit(arguments.components))
        ),
    }
    print(
        f"\n{title}\n"
        + " " * 23
        + "mean        sd    median   3 sigma   error %  error sd    CPU s"
    )
    rows: dict[str, Any] = {}
    for name, way in ways.items():
        begun = time.process_time()
        law = way()
        seconds = time.process_time() - begun
        truth = rows.get("Monte Carlo", law._asdict())
        off = law.three_sigma - truth["three_sigma"]
        errors = {"relative": off / truth["three_sigma"], "in_sd": off / truth["sd"]}
        rows[name] = {**law._asdict(), **errors, "seconds": seconds}
        numbers = "".join(f"{value:10.4f}" for value in law)
        shown = f"{100 * errors['relative']:10.3f}{errors['in_sd']:10.3f}{seconds:9.1f}"
        print(name.ljust(20) + numbers + shown, flush=True)
    return rows


class Law(NamedTuple):
    """Mean, standard deviation, median and quantile at three sigma."""

    mean: float
    sd: float
    median: float
    three_sigma: float


def _gaussian(mean: float, sd: float) -> Law:
    return Law(mean, sd, mean, mean + 3 * sd)


def _sampled(samples: NDArray[np.float32]) -> Law:
    median, three = np.quantile(samples, [0.5, _THREE])
    wide = samples.astype(np.float64)
    return Law(float(wide.mean()), float(wide.std()), float(median), float(three))


def _integrated(law: Mixture) -> Law:
    """From the laws at the nodes of the factors, (X, K), to the law over all their values."""
    scores = torch.linspace(-5, 5, 201, dtype=torch.float64)
    values = quantile(law, torch.special.ndtr(scores))
    weights = torch.exp(-scores.square() / 2)
    if len(values) > 1:
        # Quadratic in each factor: arrival times bend with it, but little.
        x = torch.linspace(-5, 5, 61, dtype=torch.float64)
        basis, density = _lagrange(x), torch.exp(-x.square() / 2)
        square = values.reshape(len(_NODES), len(_NODES), -1)
        values = torch.einsum("gi,hj,ijp->ghp", basis, basis, square)
        weights = density[:, None, None] * density[:, None] * weights
    return _weighted(values.flatten(), weights.flatten())


def _lagrange(x: Tensor) -> Tensor:
    """The polynomials that are one at one node and zero at the others, (points, nodes)."""
    columns = []
    for node in _NODES:
        others = [other for other in _NODES if other != node]
        factors = [(x - other) / (node - other) for other in others]
        columns.append(torch.stack(factors).prod(dim=0))
    return torch.stack(columns, dim=1)


def _weighted(values: Tensor, weights: Tensor) -> Law:
    order = values.argsort()
    values, weights = values[order], weights[order] / weights.sum()
    # The share below the middle of each weight.
    below = weights.cumsum(0) - weights / 2
    places = np.interp([0.5, _THREE], below.numpy(), values.numpy())
    mean = (weights * values).sum()
    sd = (weights * (values - mean).square()).sum().sqrt()
    return Law(float(mean), float(sd), float(places[0]), float(places[1]))


if __name__ == "__main__":
    main()
