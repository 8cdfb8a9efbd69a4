"""The learned start, compiled, for one density at a time: what ``InitNet`` does, in float64.

A product of a matrix with one vector after another costs a few microseconds, and a density's
start is the same to the bit in any batch, which no library's product of matrices promises.
"""

import math
from typing import NamedTuple

import numpy as np

from kernels.gmm.fused_grid import accumulate, interpolate
from kernels.gmm.fused_normal import Array, compiled, compiled_sums, fast_exp, fast_log


class Network(NamedTuple):
    """What an ``InitNet`` learned, for one number of components K: weights (in, out)."""

    normal: Array  # (L), standard normal quantiles of the levels
    levels: Array  # (L)
    places: Array  # (bins + 1), edges of the standard cells
    first: Array
    first_bias: Array
    second: Array
    second_bias: Array
    head: Array  # to 3K + 1 + blocks
    head_bias: Array


class Sight(NamedTuple):
    """Memory for the start of one density."""

    cdf: Array  # (N+1)
    quantiles: Array  # (L)
    below: Array  # (bins + 1)
    log_widths: Array  # (N)
    features: Array
    first: Array
    second: Array
    out: Array  # (3K + 1 + blocks)
    levels: Array  # (K)


@compiled
def sight_for(network: Network, cells: int, components: int) -> Sight:
    """Uninitialized memory."""
    return Sight(
        np.empty(cells + 1),
        np.empty(len(network.levels)),
        np.empty(len(network.places)),
        np.empty(cells),
        np.empty(network.first.shape[0]),
        np.empty(network.first.shape[1]),
        np.empty(network.second.shape[1]),
        np.empty(network.head.shape[1]),
        np.empty(components),
    )


@compiled_sums
def _mean_log_width(masses: Array, edges: Array, sight: Sight) -> float:
    total, logs = 0.0, sight.log_widths
    for i in range(len(masses)):
        logs[i] = fast_log(edges[i + 1] - edges[i])
    for i in range(len(masses)):
        total += masses[i] * logs[i]
    return total


@compiled
def _see(masses: Array, edges: Array, network: Network, sight: Sight) -> None:
    """The features, as ``InitNet.features`` has them."""
    features, count, bins = sight.features, len(network.levels), len(network.places)
    accumulate(masses, sight.cdf)
    interpolate(sight.cdf, edges, network.levels, sight.quantiles)
    interpolate(edges, sight.cdf, network.places, sight.below)
    for q in range(count):
        features[q] = min(max(sight.quantiles[q] - network.normal[q], -8.0), 8.0)
    for q in range(count - 1):
        gap = sight.quantiles[q + 1] - sight.quantiles[q]
        features[count + q] = 0.5 * fast_log(gap + 1e-3)
    features[2 * count - 1] = 0.5 * _mean_log_width(masses, edges, sight)
    for i in range(bins - 1):
        mass = max(sight.below[i + 1] - sight.below[i], 0.0)
        features[2 * count + i] = math.sqrt(mass * bins) - 0.5


@compiled
def _layer(x: Array, weights: Array, bias: Array, out: Array) -> None:
    for j in range(len(out)):
        out[j] = bias[j]
    for i in range(len(x)):
        row = weights[i]
        for j in range(len(out)):
            out[j] += x[i] * row[j]


@compiled
def _silu(x: Array) -> None:
    for j in range(len(x)):
        decay = fast_exp(max(-abs(x[j]), -690.0))
        x[j] = x[j] * (1.0 if x[j] >= 0 else decay) / (1.0 + decay)


@compiled
def bounded(x: float, most: float) -> float:
    """x near zero, and never further than ``most``."""
    return most * math.tanh(x / most)


@compiled
def start(masses: Array, edges: Array, network: Network, sight: Sight, theta: Array) -> None:
    """A start, not yet settled: log weights, means and log sigmas, (3, K).

    The network's advice on the dampings stays in ``sight.out``, from 3K + 1 on.
    """
    k = theta.shape[1]
    _see(masses, edges, network, sight)
    _layer(sight.features, network.first, network.first_bias, sight.first)
    _silu(sight.first)
    _layer(sight.first, network.second, network.second_bias, sight.second)
    _silu(sight.second)
    _layer(sight.second, network.head, network.head_bias, sight.out)
    places, weights, scales = sight.out[: k + 1], sight.out[k + 1 :], sight.out[2 * k + 1 :]
    total = 0.0
    for c in range(k + 1):
        total += math.exp(bounded(places[c], 5.0))
    level = 0.0
    for c in range(k):
        level += math.exp(bounded(places[c], 5.0)) / total
        sight.levels[c] = level
        theta[0, c] = bounded(weights[c], 5.0)
        theta[2, c] = bounded(scales[c], 4.0) + math.log(1.2 / k**0.8)
    interpolate(sight.cdf, edges, sight.levels, theta[1])
