"""The refiner without autograd, one density after another, compiled.

The arithmetic is that of ``Refiner``: standard coordinates, ``Orientation``, ``InitNet``,
``fisher.scores``, ``fisher.solve``, ``RefineBlock``, ``ParameterTransform.settle``; tests compare.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

from kernels.gmm.fisher import FAR, FLOOR, RIDGE
from kernels.gmm.fused_cells import Work, divergence, model_masses, work_for
from kernels.gmm.fused_grid import (
    copy,
    finite,
    narrowest,
    orient,
    quantile_state,
    revision,
    sort_components,
    standardize,
)
from kernels.gmm.fused_normal import Array, compiled, kept
from kernels.gmm.fused_scoring import dot, outer_products, slopes, solve
from kernels.gmm.fused_start import Network, Sight, bounded, sight_for, start
from kernels.gmm.refiner import CAUTION, LEAST_DAMPING, MOST_DAMPING
from kernels.gmm.transform import GAP, LOGIT

#: Further out than FAR sigmas nothing is above the floor, and squares of less would underflow.
_LEAST_EXPONENT = -0.5 * FAR * FAR


class Rules(NamedTuple):
    """What the blocks learned, and when to stop.

    Attributes:
        table: A row a block: two coefficients of the damping, the bound, three step sizes.
        steps: At most; after the blocks the last one is repeated.
        enough: Expected decrease of the divergence, in nats, below which to stop.
        merged: Runs of cells with less mass are fitted as one cell; negative for never.
        floor: Least sigma, in widths of the narrowest cell.
        poor: Divergence, in nats, above which other starts are tried.
    """

    table: Array
    steps: int
    enough: float
    merged: float
    floor: float
    poor: float


class _Memory(NamedTuple):
    """For one density of N cells, besides what a step needs."""

    masses: Array  # (N), the right way round
    edges: Array  # (N+1), standard, the same
    wanted: Array  # (N), masses of the cells that are left
    ends: Array  # (N+1), and their edges
    best: Array  # (3, K), log weights, means, log sigmas
    other: Array  # (3, K), on trial
    kept: Array  # (3, K), the best so far of several starts
    complete: Array  # (K), expected masses of the components
    limits: Array  # (4), least first mean, width, least and greatest log sigma
    dampings: Array  # (blocks), the network's advice


@compiled
def _memory_for(cells: int, components: int, blocks: int) -> _Memory:
    """Uninitialized memory."""
    return _Memory(
        np.empty(cells),
        np.empty(cells + 1),
        np.empty(cells),
        np.empty(cells + 1),
        np.empty((3, components)),
        np.empty((3, components)),
        np.empty((3, components)),
        np.empty(components),
        np.empty(4),
        np.empty(blocks),
    )


@compiled
def _evaluate(wanted: Array, ends: Array, theta: Array, work: Work) -> float:
    """Divergence of a mixture; its masses and their parts stay in the memory."""
    model_masses(ends, theta, FLOOR, _LEAST_EXPONENT, work)
    return divergence(wanted, work)


@compiled
def _score(wanted: Array, theta: Array, complete: Array, work: Work) -> None:
    """Gradient and information of the mixture that was evaluated last."""
    n, k = len(wanted), theta.shape[1]
    slopes(n, theta, work)
    for a in range(3 * k):
        work.gradient[a] = dot(wanted, work.slopes[a], n)
    outer_products(work.total, n, work)
    for c in range(k):
        weight = math.exp(theta[0, c])
        complete[c] = max(weight, work.gradient[c])
        work.gradient[c] -= weight


@compiled
def _step(complete: Array, damping: float, work: Work) -> None:
    """The damped step; where the matrix is singular, the EM-like one."""
    k, m = len(complete), len(work.step)
    for a in range(m):
        work.diagonal[a] = damping * complete[a % k] * (1 if a < 2 * k else 2) + RIDGE
    if not solve(work, 0.0):
        for a in range(m):
            count = complete[a % k] * (1 if a < 2 * k else 2)
            work.step[a] = work.gradient[a] / ((1 + damping) * count + RIDGE)


@compiled
def _advance(theta: Array, bound: float, sizes: Array, out: Array, work: Work) -> None:
    """Take the step, no coordinate further than the bound."""
    k, most = theta.shape[1], bound
    for a in range(3 * k):
        most = max(most, abs(work.step[a]))
    share = bound / most
    for c in range(k):
        out[0, c] = theta[0, c] + share * sizes[0] * work.step[c]
        move = share * sizes[1] * work.step[k + c]
        out[1, c] = theta[1, c] + move * math.exp(theta[2, c])
        out[2, c] = theta[2, c] + share * sizes[2] * work.step[2 * k + c]


@compiled
def _merge(memory: _Memory, merged: float) -> int:
    """Runs of cells that hold at most ``merged`` become one cell; returns how many are left."""
    masses, edges, wanted, ends = memory[:4]
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


@compiled
def _settle(theta: Array, limits: Array) -> None:
    """As ``ParameterTransform.settle``: in order, apart, bounded, weights of sum one."""
    k = theta.shape[1]
    sort_components(theta)
    low, width, low_log, high_log = limits
    before, after = theta[1, 0], min(max(theta[1, 0], low), low + width)
    theta[1, 0] = after
    for c in range(1, k):
        gap = min(max((theta[1, c] - before) / width - GAP, 0.0), 1.0)
        before, after = theta[1, c], after + width * (GAP + gap)
        theta[1, c] = after
    _normalize(theta[0])
    for c in range(k):
        theta[2, c] = min(max(theta[2, c], low_log), high_log)


@compiled
def _normalize(log_weights: Array) -> None:
    center, total = 0.0, 0.0
    for c in range(len(log_weights)):
        center += log_weights[c] / len(log_weights)
    for c in range(len(log_weights)):
        log_weights[c] = min(max(log_weights[c] - center, -LOGIT), LOGIT)
        total += math.exp(log_weights[c])
    for c in range(len(log_weights)):
        log_weights[c] -= math.log(total)


@compiled
def _begin(network: Network, rules: Rules, sight: Sight, memory: _Memory) -> None:
    """The learned start, and the network's advice on the dampings."""
    limits, k = memory.limits, memory.best.shape[1]
    limits[0], limits[1] = memory.edges[0], memory.edges[-1] - memory.edges[0]
    limits[2] = math.log(rules.floor * narrowest(memory.edges))
    limits[3] = math.log(limits[1])
    start(memory.masses, memory.edges, network, sight, memory.best)
    _settle(memory.best, limits)
    for t in range(len(memory.dampings)):
        memory.dampings[t] = bounded(sight.out[3 * k + 1 + t], 5.0)


@compiled
def _refine(
    n: int, best: Array, other: Array, rules: Rules, memory: _Memory, work: Work
) -> tuple[float, Array]:
    """Refine the mixture ``best``; returns the divergence and the mixture where it ended."""
    wanted, ends = memory.wanted[:n], memory.ends[: n + 1]
    now, rejected, last = _evaluate(wanted, ends, best, work), 0, len(rules.table) - 1
    _score(wanted, best, memory.complete, work)
    for t in range(rules.steps):
        rule = rules.table[min(t, last)]
        power = rule[0] + rule[1] * math.log(max(now, 0.0) + 1e-6)
        power += memory.dampings[min(t, last)] + CAUTION * rejected
        _step(memory.complete, math.exp(min(max(power, LEAST_DAMPING), MOST_DAMPING)), work)
        if dot(work.step, work.gradient, len(work.step)) < 2 * rules.enough:
            break
        _advance(best, rule[2], rule[3:], other, work)
        _settle(other, memory.limits)
        new = _evaluate(wanted, ends, other, work)
        if not new <= now:
            rejected += 1
            continue
        best, other, now, rejected = other, best, new, 0
        if t < rules.steps - 1:
            _score(wanted, best, memory.complete, work)
    return now, best


@compiled
def _fit(recipes: Array, rules: Rules, cdf: Array, memory: _Memory, work: Work) -> Array:
    """Refine the learned start, and while the fit is poor those of the recipes; the best fit."""
    limits, kept = memory.limits, memory.kept
    n = _merge(memory, rules.merged)
    least, found = _refine(n, memory.best, memory.other, rules, memory, work)
    for s in range(len(recipes)):
        if least <= rules.poor:
            break
        copy(found, kept)
        quantile_state(memory.edges, recipes[s], cdf, limits[2], limits[3], memory.best)
        _settle(memory.best, limits)
        now, rival = _refine(n, memory.best, memory.other, rules, memory, work)
        least, found = (now, rival) if now < least else (least, kept)
    return found


@compiled
def _put_back(theta: Array, shift: float, scale: float, mirrored: bool, out: Array) -> None:
    """Log weights, means and sigmas in the coordinates of the density."""
    k = theta.shape[1]
    for c in range(k):
        source, sign = (k - 1 - c, -1.0) if mirrored else (c, 1.0)
        out[0, c] = theta[0, source]
        out[1, c] = sign * theta[1, source] * scale + shift
        out[2, c] = math.exp(theta[2, source]) * scale


def _entry(revision: int) -> Callable[..., None]:
    """The loop over densities, kept on disk for as long as the revision is the same."""

    def refine_rows(
        masses: Array, edges: Array, network: Network, recipes: Array, rules: Rules, out: Array
    ) -> None:
        batch, cells = masses.shape
        k = out.shape[2] if revision >= 0 else 0
        work, sight = work_for(k, cells), sight_for(network, cells, k)
        memory = _memory_for(cells, k, len(rules.table))
        for b in range(batch):
            if not finite(masses[b]):
                out[b] = np.nan
                continue
            grid = edges[b if len(edges) > 1 else 0]
            shift, scale = standardize(masses[b], grid, memory.edges)
            mirrored = orient(masses[b], memory.edges, memory.masses)
            _begin(network, rules, sight, memory)
            found = _fit(recipes, rules, sight.cdf, memory, work)
            _put_back(found, shift, scale, mirrored, out[b])

    return cast(Callable[..., None], kept(refine_rows))


_refine_rows = _entry(revision())


def refine_all(
    masses: Array, edges: Array, network: Network, recipes: Array, rules: Rules, out: Array
) -> None:
    """Fit mixtures to densities.

    Args:
        masses: (B, N).
        edges: (B or 1, N+1).
        network: What the start learned.
        recipes: Of other starts, (S, 2, K), see ``start.recipes``.
        rules: What the blocks learned.
        out: Log weights, means and sigmas, (B, 3, K), written.
    """
    _refine_rows(masses, edges, network, recipes, rules, out)
