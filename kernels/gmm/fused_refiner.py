"""The blocks of the refiner without autograd, one density after another, compiled.

The arithmetic is that of ``fisher.scores``, ``fisher.solve``, ``refiner.RefineBlock`` and
``ParameterTransform.settle``; tests compare them.
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numba import njit

from kernels.gmm.fisher import FAR, FLOOR, RIDGE
from kernels.gmm.fused_cells import copy
from kernels.gmm.fused_normal import Array, at_edges, compiled, compiled_sums, fast_log
from kernels.gmm.refiner import CAUTION, LEAST_DAMPING, MOST_DAMPING
from kernels.gmm.transform import GAP, LOGIT

Entry = Callable[..., None]
#: In the place of an empty cell, for the logarithm.
_LEAST = 1e-290


class Rules(NamedTuple):
    """What the blocks learned, and when to stop.

    Attributes:
        table: A row a block: two coefficients of the damping, the bound, three step sizes.
        steps: At most; after the blocks the last one is repeated.
        enough: Expected decrease of the divergence, in nats, below which to stop.
        merged: Runs of cells with less mass are fitted as one cell; negative for never.
    """

    table: Array
    steps: int
    enough: float
    merged: float


class _Work(NamedTuple):
    """Memory for one density at a time, N cells and K components at most."""

    x: Array  # (N+1), standard edges
    density: Array  # (N+1), standard normal density there
    tail: Array  # (N+1), the smaller tail, negative above zero
    masses: Array  # (N), of the model
    ratio: Array  # (N), of the masses wanted to those
    slopes: Array  # (3K, N), derivatives of the masses
    scaled: Array  # (N), one row of them
    factor: Array  # (3K, 3K), Cholesky factor
    step: Array  # (3K)


class _Place(NamedTuple):
    """A mixture and its scores, see ``fisher.Scores``."""

    theta: Array  # (3, K), log weights, means, log sigmas
    gradient: Array  # (3K)
    information: Array  # (3K, 3K), lower half
    complete: Array  # (3K)


@compiled
def _make_work(cells: int, components: int) -> _Work:
    """Memory for that many cells and components."""
    m = 3 * components
    return _Work(
        np.empty(cells + 1),
        np.empty(cells + 1),
        np.empty(cells + 1),
        np.empty(cells),
        np.empty(cells),
        np.empty((m, cells)),
        np.empty(cells),
        np.zeros((m, m)),
        np.empty(m),
    )


@compiled
def _make_place(components: int) -> _Place:
    """Memory for one mixture and its scores."""
    m = 3 * components
    return _Place(np.empty((3, components)), np.empty(m), np.empty((m, m)), np.empty(m))


@compiled
def _differentiate(edges: Array, n: int, theta: Array, work: _Work) -> None:
    """Masses of the cells, plus FLOOR, and their derivatives in local coordinates."""
    k = theta.shape[1]
    x, density, tail, masses = work.x, work.density, work.tail, work.masses
    for i in range(n):
        masses[i] = FLOOR
    for c in range(k):
        at_edges(edges[: n + 1], theta[1, c], math.exp(-theta[2, c]), x, density, tail)
        for j in range(n + 1):  # what is next to nothing would become subnormal, which is slow
            near = abs(x[j]) < FAR
            density[j], tail[j] = (density[j], tail[j]) if near else (0.0, 0.0)
        weight = math.exp(theta[0, c])
        by_weight, by_mean, by_sigma = work.slopes[c], work.slopes[k + c], work.slopes[2 * k + c]
        for i in range(n):
            crossing = (1.0 if x[i + 1] >= 0 else 0.0) - (1.0 if x[i] >= 0 else 0.0)
            mass = weight * (tail[i + 1] - tail[i] + crossing)
            masses[i] += mass
            by_weight[i] = mass
            by_mean[i] = weight * (density[i] - density[i + 1])
            by_sigma[i] = weight * (x[i] * density[i] - x[i + 1] * density[i + 1])


@compiled_sums
def _divergence(wanted: Array, n: int, work: _Work) -> float:
    """Binned divergence of the masses wanted from those of the model."""
    total = 0.0
    for i in range(n):
        total += wanted[i] * fast_log(max(wanted[i], _LEAST) / work.masses[i])
    return total


@compiled_sums
def _dot(a: Array, b: Array, n: int) -> float:
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


@compiled_sums
def _score(wanted: Array, n: int, place: _Place, work: _Work) -> None:
    """Gradient and information at a place whose slopes are in the memory."""
    k = place.theta.shape[1]
    for i in range(n):
        work.ratio[i] = wanted[i] / work.masses[i]
    for a in range(3 * k):
        row = work.slopes[a]
        place.gradient[a] = _dot(work.ratio, row, n)
        for i in range(n):
            work.scaled[i] = row[i] / work.masses[i]
        for b in range(a + 1):
            place.information[a, b] = _dot(work.scaled, work.slopes[b], n)
    for c in range(k):
        weight = math.exp(place.theta[0, c])
        count = max(weight, place.gradient[c])
        place.gradient[c] -= weight
        place.complete[c], place.complete[k + c] = count, count
        place.complete[2 * k + c] = 2 * count


@compiled_sums
def _solve(place: _Place, damping: float, work: _Work) -> None:
    """The damped step; where the matrix is singular, the EM-like one."""
    m = len(work.step)
    factor, step = work.factor, work.step
    for a in range(m):
        for b in range(a + 1):
            total = place.information[a, b]
            if a == b:
                total += damping * place.complete[a] + RIDGE
            for c in range(b):
                total -= factor[a, c] * factor[b, c]
            if a > b:
                factor[a, b] = total * factor[b, b]
            elif total > 0:
                factor[a, a] = 1 / math.sqrt(total)
            else:
                for c in range(m):
                    step[c] = place.gradient[c] / ((1 + damping) * place.complete[c] + RIDGE)
                return
    for a in range(m):
        total = place.gradient[a]
        for c in range(a):
            total -= factor[a, c] * step[c]
        step[a] = total * factor[a, a]
    for a in range(m - 1, -1, -1):
        total = step[a]
        for c in range(a + 1, m):
            total -= factor[c, a] * step[c]
        step[a] = total * factor[a, a]


@compiled_sums
def _advance(place: _Place, bound: float, sizes: Array, theta: Array, work: _Work) -> None:
    """Take the step, no coordinate further than the bound, from a place to ``theta``."""
    k = theta.shape[1]
    most = bound
    for a in range(3 * k):
        most = max(most, abs(work.step[a]))
    share = bound / most
    for c in range(k):
        theta[0, c] = place.theta[0, c] + share * sizes[0] * work.step[c]
        move = share * sizes[1] * work.step[k + c]
        theta[1, c] = place.theta[1, c] + move * math.exp(place.theta[2, c])
        theta[2, c] = place.theta[2, c] + share * sizes[2] * work.step[2 * k + c]


@compiled
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


@compiled
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
def _fit(
    ends: Array,
    wanted: Array,
    n: int,
    dampings: Array,
    limits: Array,
    rules: Rules,
    best: _Place,
    other: _Place,
    work: _Work,
) -> _Place:
    """Refine the mixture at ``best``; returns the place, of the two, where it ended."""
    _differentiate(ends, n, best.theta, work)
    now, rejected, last = _divergence(wanted, n, work), 0, len(rules.table) - 1
    _score(wanted, n, best, work)
    for t in range(rules.steps):
        rule = rules.table[min(t, last)]
        power = rule[0] + rule[1] * math.log(max(now, 0.0) + 1e-6)
        power += dampings[min(t, last)] + CAUTION * rejected
        _solve(best, math.exp(min(max(power, LEAST_DAMPING), MOST_DAMPING)), work)
        if _dot(work.step, best.gradient, len(work.step)) < 2 * rules.enough:
            break
        _advance(best, rule[2], rule[3:], other.theta, work)
        _settle(other.theta, limits)
        _differentiate(ends, n, other.theta, work)
        new = _divergence(wanted, n, work)
        if not new <= now:
            rejected += 1
            continue
        best, other, now, rejected = other, best, new, 0
        if t < rules.steps - 1:
            _score(wanted, n, best, work)
    return best


def _entry(revision: int) -> Entry:
    """The loop over densities, kept on disk for as long as the revision is the same."""

    def refine_rows(
        edges: Array, masses: Array, theta: Array, dampings: Array, limits: Array, rules: Rules
    ) -> None:
        batch, cells = masses.shape
        k = theta.shape[2] if revision >= 0 else 0
        work, best, other = _make_work(cells, k), _make_place(k), _make_place(k)
        ends, wanted = np.empty(cells + 1), np.empty(cells)
        for b in range(batch):
            n = _merge(edges[b], masses[b], rules.merged, ends, wanted)
            copy(theta[b], best.theta)
            found = _fit(ends, wanted, n, dampings[b], limits[b], rules, best, other, work)
            copy(found.theta, theta[b])

    try:
        return cast(Entry, njit(cache=True, nogil=True, error_model="numpy")(refine_rows))
    except RuntimeError:  # nowhere to write
        return cast(Entry, njit(nogil=True, error_model="numpy")(refine_rows))


def _revision() -> int:
    """A number that changes with any source that compiled code or its constants come from."""
    here = Path(__file__).parent
    names = ("fisher.py", "refiner.py", "transform.py")
    sources = [*(here / name for name in names), *sorted(here.glob("fused*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    return int(digest.hexdigest()[:12], 16)


_refine_rows = _entry(_revision())


def refine_all(
    edges: Array, masses: Array, theta: Array, dampings: Array, limits: Array, rules: Rules
) -> None:
    """Refine mixtures in place.

    Args:
        edges: Standard coordinates, (B, N+1).
        masses: (B, N).
        theta: Log weights, means and log sigmas, (B, 3, K).
        dampings: The network's log dampings, (B, blocks).
        limits: The fields of a ``ParameterTransform``, (B, 4).
        rules: What the blocks learned.
    """
    _refine_rows(edges, masses, theta, dampings, limits, rules)
