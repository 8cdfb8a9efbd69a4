"""Classical fits of cell masses on a CPU, one density at a time, compiled.

The first call compiles, and keeps the code in NUMBA_CACHE_DIR if that is set, beside this file,
or, where that is read-only, in the user's cache; where none can be written, every process compiles.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from kernels.gmm.acceleration import LEAST_LOG_WEIGHT
from kernels.gmm.descent import Descent, Method
from kernels.gmm.em import SigmaBounds, sigma_floor
from kernels.gmm.fused_cells import Work, work_for
from kernels.gmm.fused_descent import METHODS, Memory, Plan, Task, descend_row
from kernels.gmm.fused_grid import (
    accumulate,
    copy,
    finite,
    narrowest,
    quantile_state,
    revision,
    sort_components,
    standardize,
)
from kernels.gmm.fused_normal import Array, compiled, kept
from kernels.gmm.gridded import Gridded, as_array
from kernels.gmm.mixture import Mixture
from kernels.gmm.start import FIRST, LATER_DAMPING, SECOND, recipes

#: Of the first descents, as :func:`descend` has them by default.
_WARM, _DAMPING = 2, 0.1


class _Tries(NamedTuple):
    """What several starts lead to."""

    cdf: Array  # (N+1), at the edges
    states: Array  # (S, 3, K), of the starts
    kl: Array  # (S)
    better: Array  # (S, 3, K), of those that went on, best first
    better_kl: Array  # (S)


@compiled
def _enter(mixture: Array, shift: float, scale: float, low: float, high: float) -> None:
    """Log weights, means and sigmas (3, K) become a state in standard coordinates."""
    total = 0.0
    for c in range(mixture.shape[1]):
        mixture[0, c] = max(mixture[0, c], LEAST_LOG_WEIGHT)
        total += math.exp(mixture[0, c])
    for c in range(mixture.shape[1]):
        mixture[0, c] -= math.log(total)
        mixture[1, c] = (mixture[1, c] - shift) / scale
        mixture[2, c] = min(max(math.log(mixture[2, c] / scale), low), high)


@compiled
def _leave(state: Array, shift: float, scale: float, mixture: Array) -> None:
    """And back."""
    for c in range(state.shape[1]):
        mixture[0, c] = state[0, c]
        mixture[1, c] = state[1, c] * scale + shift
        mixture[2, c] = math.exp(state[2, c]) * scale


@compiled
def _take_least(values: Array) -> int:
    """Index of the least value, which is then out of the race."""
    least = 0
    for i in range(1, len(values)):
        if values[i] < values[least]:
            least = i
    values[least] = np.inf
    return least


@compiled
def _solve(
    task: Task,
    plan: Plan,
    recipes: Array,
    tries: _Tries,
    work: Work,
    memory: Memory,
    result: Array,
) -> int:
    """Try the starts, go on with the better ones; the best is the first of ``tries.better``."""
    count, used = len(recipes), 0
    first = min(FIRST, plan.budget) if count > 1 else plan.budget
    trial = Plan(plan.method, plan.warm, first, plan.tolerance, plan.damping)
    accumulate(task.masses, tries.cdf)
    for s in range(count):
        quantile_state(task.edges, recipes[s], tries.cdf, task.low, task.high, tries.states[s])
        descend_row(task, trial, tries.states[s], work, memory, result)
        tries.kl[s] = result[0]
        used += int(result[1])
    later = Plan(plan.method, 0, min(SECOND, plan.budget), plan.tolerance, LATER_DAMPING)
    for s in range((count + 1) // 2 if count > 2 else 1):
        copy(tries.states[_take_least(tries.kl)], tries.better[s])
        if count > 2:
            descend_row(task, later, tries.better[s], work, memory, result)
            tries.better_kl[s] = result[0]
            used += int(result[1])
    if count > 1:
        last = Plan(plan.method, 0, plan.budget, plan.tolerance, LATER_DAMPING)
        best = _take_least(tries.better_kl[: (count + 1) // 2]) if count > 2 else 0
        copy(tries.better[best], tries.better[0])
        descend_row(task, last, tries.better[0], work, memory, result)
        used += int(result[1])
    sort_components(tries.better[0])
    return used


def _entry(revision: int) -> Any:
    """The loop over rows, compiled, and kept on disk for as long as the revision is the same."""

    def fit_rows(
        masses: Array,
        edges: Array,
        floor: float,
        bounds: Array,
        recipes: Array,
        plan: Plan,
        mixtures: Array,
        results: Array,
    ) -> None:
        """Masses (B, N), edges and bounds (B or 1, ...), recipes (S, 2, K), mixtures (B, 3, K).

        Without bounds those of the grid count, the least sigma ``floor`` widths of the narrowest
        cell. Without recipes the mixtures are the starts. Results are those of a descent, (B, 4).
        """
        count, cells = len(recipes), masses.shape[1]
        k = mixtures.shape[2] if revision >= 0 else 0
        work, standard = work_for(k, cells), np.empty(cells + 1)
        memory = Memory(np.empty((3, k)), np.empty((3, k)), np.empty((3, k)))
        shape = (count, 3, k)
        tries = _Tries(
            np.empty(cells + 1), np.empty(shape), np.empty(count), np.empty(shape), np.empty(count)
        )
        for b in range(len(masses)):
            if not (finite(masses[b]) and (count > 0 or finite(mixtures[b].ravel()))):
                mixtures[b], results[b, 0] = np.nan, np.nan
                continue
            grid = edges[b if len(edges) > 1 else 0]
            low, high = floor * narrowest(grid), grid[-1] - grid[0]
            if len(bounds) > 0:
                low, high = bounds[b if len(bounds) > 1 else 0]
            shift, scale = standardize(masses[b], grid, standard)
            task = Task(masses[b], standard, math.log(low / scale), math.log(high / scale))
            if count > 0:
                used = _solve(task, plan, recipes, tries, work, memory, results[b])
                results[b, 1] = used
                _leave(tries.better[0], shift, scale, mixtures[b])
            else:
                _enter(mixtures[b], shift, scale, task.low, task.high)
                descend_row(task, plan, mixtures[b], work, memory, results[b])
                _leave(mixtures[b], shift, scale, mixtures[b])

    return kept(fit_rows)


_fit_rows = _entry(revision())


def descend(
    gridded: Gridded,
    start: Mixture,
    method: Method = "scoring",
    budget: int = 60,
    tolerance: float = 1e-9,
    damping: float = _DAMPING,
    warm: int = _WARM,
    bounds: SigmaBounds | None = None,
) -> Descent:
    """Do what :func:`kernels.gmm.descent.descend` does, on one thread of a CPU, in float64.

    Raises:
        ValueError: The method is not compiled, or there is no budget.
    """
    plan = _plan(method, warm, budget, tolerance, damping)
    given = torch.stack([tensor.detach().double() for tensor in start], dim=1)
    return _fit(gridded, np.empty((0, 2, given.shape[2])), plan, as_array(given), bounds)


def solve(
    gridded: Gridded,
    components: int,
    method: Method = "scoring",
    starts: int = 4,
    budget: int = 60,
    tolerance: float = 1e-9,
    bounds: SigmaBounds | None = None,
) -> Descent:
    """Fit from several starts, as :func:`kernels.gmm.solve.solve` does; evaluations of them all.

    Raises:
        ValueError: The method is not compiled, or there is no budget.
    """
    plan = _plan(method, _WARM, budget, tolerance, _DAMPING)
    out = np.empty((len(gridded.masses), 3, components))
    return _fit(gridded, recipes(components, starts), plan, out, bounds)


def _plan(method: Method, warm: int, budget: int, tolerance: float, damping: float) -> Plan:
    if method not in METHODS or budget < 1:
        raise ValueError(f"expected a budget and one of {METHODS}, found {budget}, {method!r}")
    return Plan(METHODS.index(method), warm, budget, float(tolerance), float(damping))


def _fit(
    gridded: Gridded, recipes: Array, plan: Plan, mixtures: Array, bounds: SigmaBounds | None
) -> Descent:
    """Call the compiled loop, which writes the mixtures."""
    limits = np.empty((0, 2))
    if bounds is not None:
        pair = np.broadcast_arrays(as_array(bounds.low), as_array(bounds.high))
        limits = np.concatenate(pair, axis=-1)
    results = np.zeros((len(mixtures), 4))
    masses, edges = as_array(gridded.masses), as_array(gridded.edges)
    floor = sigma_floor(gridded.kind)
    _fit_rows(masses, edges, floor, limits, recipes, plan, mixtures, results)
    kl, used, accepted, converged = torch.from_numpy(results).unbind(dim=-1)
    mixture = Mixture(*torch.from_numpy(mixtures).unbind(1))
    return Descent(mixture, kl, used.long(), accepted.long(), converged == 1)
