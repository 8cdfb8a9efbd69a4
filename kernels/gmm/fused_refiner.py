"""The refiner without autograd: a batched network, then one density after another, compiled."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from kernels.gmm.fused_scoring import (
    Array,
    Place,
    Work,
    advance,
    differentiate,
    divergence,
    make_place,
    make_work,
    score,
    solve,
)
from kernels.gmm.gridded import Gridded, Standardization
from kernels.gmm.mixture import Mixture
from kernels.gmm.refiner import CAUTION, LEAST_DAMPING, MOST_DAMPING, Refiner
from kernels.gmm.transform import GAP, LOGIT, ParameterTransform

#: Runs of cells that hold less than this are fitted as one: an empty cell costs what others do.
MERGED = 1e-9
_CHUNK = 4096


class Rules(NamedTuple):
    """What the blocks learned, and when to stop.

    Attributes:
        table: A row a block: two coefficients of the damping, the bound, three step sizes.
        steps: At most; after the blocks the last one is repeated.
        enough: Expected decrease of the divergence, in nats, below which to stop.
        merged: See ``MERGED``.
    """

    table: Array
    steps: int
    enough: float
    merged: float


def infer(
    refiner: Refiner,
    gridded: Gridded,
    components: int,
    *,
    steps: int | None = None,
    enough: float = 0.0,
    merged: float = MERGED,
) -> Mixture:
    """Fit mixtures as the refiner's last block does, fast.

    Args:
        refiner: On the CPU.
        gridded: Densities, (B, N).
        components: K, at most 16.
        steps: At most so many a density, by default the number of blocks; after the blocks the
            last one is repeated.
        enough: Stop a density where the next step promises to lower the divergence by less.
        merged: Fit runs of cells with less mass as one cell; negative for never.

    Returns:
        (B, K), float64, means in order. NaN where the masses are not finite.
    """
    k, size = components, len(gridded.masses)
    rules = Rules(_table(refiner), steps or refiner.config.blocks, enough, merged)
    parts = [
        _infer(refiner, gridded.rows(torch.arange(start, min(start + _CHUNK, size))), k, rules)
        for start in range(0, size, _CHUNK)
    ]
    return Mixture(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@torch.no_grad()
def _infer(refiner: Refiner, gridded: Gridded, components: int, rules: Rules) -> Mixture:
    gridded = gridded.to(torch.float64)
    standard = Standardization.of(gridded)
    inside = standard.forward(gridded)
    transform = ParameterTransform.of(inside)
    start, dampings = refiner.start(inside, components, transform)
    limits = torch.cat([tensor.expand(len(inside.masses), 1) for tensor in transform], dim=-1)
    theta = torch.stack([start.log_weights, start.means, start.sigmas.log()], dim=1).numpy()
    _refine(
        inside.edges.numpy(),
        inside.masses.numpy(),
        theta,
        dampings.double().numpy(),
        limits.numpy(),
        *rules,
    )
    weights, means, log_sigmas = torch.from_numpy(theta).unbind(1)
    return standard.inverse(Mixture(weights, means, log_sigmas.exp()))


def _table(refiner: Refiner) -> Array:
    rows = [torch.cat([b.damping, b.longest[None], b.step_sizes]) for b in refiner.steps]
    table: Array = torch.stack(rows).detach().double().numpy()
    return table


@njit(cache=True)
def _merge(edges: Array, masses: Array, merged: float, ends: Array, wanted: Array) -> int:
    """Runs of cells that hold at most ``merged`` become one cell; returns how many are left."""
    n, held, running = 0, 0.0, False
    ends[0] = edges[0]
    for i in range(len(masses)):
        joins = masses[i] + held <= merged
        if running and not joins:
            wanted[n], ends[n + 1] = held, edges[i]
            n, held, running = n + 1, 0.0, False
        if masses[i] <= merged:
            held, running = held + masses[i], True
        else:
            wanted[n], ends[n + 1] = masses[i], edges[i + 1]
            n += 1
    if running:
        wanted[n], ends[n + 1] = held, edges[-1]
        n += 1
    return n


@njit(cache=True, error_model="numpy")
def _settle(theta: Array, limits: Array) -> None:
    """As ``ParameterTransform.settle``: in order, apart, bounded, weights of sum one."""
    k = theta.shape[1]
    for c in range(1, k):
        for d in range(c, 0, -1):
            if theta[1, d - 1] <= theta[1, d]:
                break
            for row in range(3):
                theta[row, d - 1], theta[row, d] = theta[row, d], theta[row, d - 1]
    low, width, sigma_low, sigma_high = limits
    before, after = theta[1, 0], min(max(theta[1, 0], low), low + width)
    theta[1, 0] = after
    for c in range(1, k):
        gap = min(max((theta[1, c] - before) / width - GAP, 0.0), 1.0)
        before, after = theta[1, c], after + width * (GAP + gap)
        theta[1, c] = after
    low_log, high_log = math.log(sigma_low), math.log(sigma_high)
    _normalize(theta[0])
    for c in range(k):
        theta[2, c] = min(max(theta[2, c], low_log), high_log)


@njit(cache=True)
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(cache=True)
def _copy(source: Array, target: Array) -> None:
    """Slice assignment, which would compile for seconds the message of an error it cannot have."""
    for row in range(source.shape[0]):
        for column in range(source.shape[1]):
            target[row, column] = source[row, column]


@njit(cache=True, error_model="numpy")
def _normalize(log_weights: Array) -> None:
    center, total = 0.0, 0.0
    for c in range(len(log_weights)):
        center += log_weights[c] / len(log_weights)
    for c in range(len(log_weights)):
        log_weights[c] = min(max(log_weights[c] - center, -LOGIT), LOGIT)
        total += math.exp(log_weights[c])
    for c in range(len(log_weights)):
        log_weights[c] -= math.log(total)


@njit(cache=True, error_model="numpy")
def _fit(
    ends: Array,
    wanted: Array,
    n: int,
    dampings: Array,
    limits: Array,
    table: Array,
    steps: int,
    enough: float,
    best: Place,
    other: Place,
    work: Work,
) -> Place:
    """Refine one mixture; returns the better of the two places."""
    differentiate(ends, n, best.theta, work)
    now, rejected, last = divergence(wanted, n, work), 0, len(table) - 1
    score(wanted, n, best, work)
    for t in range(steps):
        rule = table[min(t, last)]
        power = rule[0] + rule[1] * math.log(max(now, 0.0) + 1e-6)
        power += dampings[min(t, last)] + CAUTION * rejected
        solve(best, math.exp(min(max(power, LEAST_DAMPING), MOST_DAMPING)), work)
        if _dot(work.step, best.gradient) < 2 * enough:
            break
        advance(best, rule[2], rule[3:], other.theta, work)
        _settle(other.theta, limits)
        differentiate(ends, n, other.theta, work)
        new = divergence(wanted, n, work)
        if not new <= now:
            rejected += 1
            continue
        best, other, now, rejected = other, best, new, 0
        if t < steps - 1:
            score(wanted, n, best, work)
    return best


@njit(cache=True, error_model="numpy")
def _refine(
    edges: Array,
    masses: Array,
    theta: Array,
    dampings: Array,
    limits: Array,
    table: Array,
    steps: int,
    enough: float,
    merged: float,
) -> None:
    """Refine ``theta`` (B, 3, K) in place."""
    batch, cells = masses.shape
    k = theta.shape[2]
    work, best, other = make_work(cells, k), make_place(k), make_place(k)
    ends, wanted = np.empty(cells + 1), np.empty(cells)
    for b in range(batch):
        n = _merge(edges[b], masses[b], merged, ends, wanted)
        _copy(theta[b], best.theta)
        found = _fit(
            ends, wanted, n, dampings[b], limits[b], table, steps, enough, best, other, work
        )
        _copy(found.theta, theta[b])
