"""Classical fits of cell masses on a CPU, one density at a time, compiled.

The first call compiles, and keeps the code in NUMBA_CACHE_DIR if that is set, beside this file,
or, where that is read-only, in the user's cache; where none can be written, every process compiles.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kernels.gmm.acceleration import LEAST_DAMPING, LEAST_LOG_WEIGHT, mixture_of
from kernels.gmm.descent import Descent, Method, prepare
from kernels.gmm.em import SigmaBounds
from kernels.gmm.fused_cells import (
    TINY,
    Work,
    evaluate,
    far_sums,
    maximize,
    moment_sums,
    work_for,
)
from kernels.gmm.fused_grid import copy
from kernels.gmm.fused_normal import Array, compiled, jit
from kernels.gmm.fused_scoring import advance, damped_step
from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture

METHODS = ("em", "squarem", "scoring")
_EM, _SQUAREM, _SCORING = range(3)


class _Task(NamedTuple):
    """What is fitted, and how far."""

    masses: Array  # (N)
    edges: Array  # (N+1)
    low: float  # bounds of log sigma
    high: float
    method: int
    warm: int  # EM steps before the first of scoring
    budget: int  # evaluations
    tolerance: float  # of the divergence


class _Memory(NamedTuple):
    """States (3, K) of a descent."""

    trial: Array  # evaluated next
    em: Array  # the EM step from the state: what is taken where a trial fails
    start: Array  # the state before the last step


@compiled
def _extrapolate(task: _Task, start: Array, first: Array, second: Array, out: Array) -> None:
    """The squared extrapolation of two EM steps, with its third step length."""
    r = v = 0.0
    for i in range(3):
        for k in range(start.shape[1]):
            step = first[i, k] - start[i, k]
            r += step * step
            v += (second[i, k] - first[i, k] - step) ** 2
    length = max(1.0, math.sqrt(r / max(v, TINY)))
    total = 0.0
    for k in range(start.shape[1]):
        for i in range(3):
            step = first[i, k] - start[i, k]
            bend = second[i, k] - first[i, k] - step
            out[i, k] = start[i, k] + 2 * length * step + length * length * bend
        out[0, k] = min(max(out[0, k], LEAST_LOG_WEIGHT), 0.0)
        out[2, k] = min(max(out[2, k], task.low), task.high)
        total += math.exp(out[0, k])
    for k in range(start.shape[1]):
        out[0, k] -= math.log(total)


@compiled
def _descend(
    task: _Task, state: Array, damping: float, work: Work, memory: _Memory, result: Array
) -> None:
    """Fit in place. A round evaluates an EM step, which is safe, or a bolder trial.

    The result is divergence, evaluations, bold trials taken, and whether it converged.
    """
    trial, em, start = memory
    copy(state, trial)
    copy(state, em)
    kl, used, accepted, phase, bold, done = np.inf, 0, 0, 0, False, False
    while used < task.budget and not done:
        ahead = evaluate(task.masses, task.edges, trial, work)
        used += 1
        if bold and not ahead <= kl:
            copy(em, trial)
            bold, phase = False, 0
            damping = max(8 * damping, LEAST_DAMPING)
            continue
        done = kl - ahead <= task.tolerance and not bold and task.method != _SCORING
        accepted, damping = accepted + bold, (damping / 4 if bold else damping)
        copy(state, start)
        copy(trial, state)
        kl = ahead
        if used == task.budget:
            break
        moment_sums(state, work)
        far = far_sums(task.masses, task.edges, state, work) > 0
        maximize(state, task.low, task.high, work.sums, em)
        bold = phase == 1 or (task.method == _SCORING and used > task.warm and not far)
        phase = 1 - phase if task.method == _SQUAREM else 0
        if task.method == _SCORING and bold:
            damping, promise = damped_step(task.masses, state, task.low, task.high, damping, work)
            done = promise <= task.tolerance
            advance(state, task.low, task.high, work, trial)
        elif bold:
            _extrapolate(task, start, state, em, trial)
        else:
            copy(em, trial)
    result[0], result[1], result[2], result[3] = kl, used, accepted, done


@compiled
def _finite(masses: Array, state: Array) -> bool:
    total = 0.0
    for i in range(len(masses)):
        total += masses[i]
    for k in range(state.shape[1]):
        total += state[0, k] + state[1, k] + state[2, k]
    return math.isfinite(total)


def _entry(revision: int) -> Any:
    """The loop over rows, compiled, and kept on disk for as long as the revision is the same.

    The compiler's cache watches one file. But its key holds what a function closes over.
    """

    def fit_rows(
        masses: Array,
        edges: Array,
        bounds: Array,
        states: Array,
        plan: tuple[int, int, int, float, float],
        results: Array,
    ) -> None:
        """Masses (B, N), edges (B, N+1), bounds (B, 2); states (B, 3, K) and results (B, 4) out."""
        method, warm, budget, tolerance, damping = plan
        components = states.shape[2] if revision >= 0 else 0
        work = work_for(components, masses.shape[1])
        shape = (3, components)
        memory = _Memory(np.empty(shape), np.empty(shape), np.empty(shape))
        for b in range(len(masses)):
            if _finite(masses[b], states[b]):
                low, high = bounds[b, 0], bounds[b, 1]
                task = _Task(masses[b], edges[b], low, high, method, warm, budget, tolerance)
                _descend(task, states[b], damping, work, memory, results[b])
            else:
                results[b, 0] = np.nan

    options = {"nogil": True, "error_model": "numpy"}
    try:
        return jit(cache=True, **options)(fit_rows)
    except RuntimeError:  # nowhere to write
        return jit(**options)(fit_rows)


def _revision() -> int:
    """A number that changes with any source that compiled code or its constants come from."""
    here = Path(__file__).parent
    sources = [here / "acceleration.py", *sorted(here.glob("fused*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    return int(digest.hexdigest()[:12], 16)


_fit = _entry(_revision())


def descend(
    gridded: Gridded,
    start: Mixture,
    method: Method = "scoring",
    budget: int = 60,
    tolerance: float = 1e-9,
    damping: float = 0.1,
    warm: int = 2,
    bounds: SigmaBounds | None = None,
) -> Descent:
    """Do what :func:`kernels.gmm.descent.descend` does, on one thread of a CPU, in float64.

    Raises:
        ValueError: The method is not compiled, or there is no budget.
    """
    if method not in METHODS or budget < 1:
        raise ValueError(f"expected a budget and one of {METHODS}, found {budget}, {method!r}")
    with torch.no_grad():
        problem = prepare(gridded.to(torch.float64), start.to(torch.float64), bounds)
    change, scaled, states, limits = problem
    arrays = [t.contiguous().numpy() for t in (scaled.masses, scaled.edges, limits, states)]
    results = torch.zeros(len(states), 4, dtype=torch.float64)
    plan = (METHODS.index(method), warm, budget, float(tolerance), float(damping))
    _fit(*arrays, plan, results.numpy())
    fitted = torch.from_numpy(arrays[-1])
    fitted[results[:, 0].isnan()] = torch.nan
    kl, used, accepted, converged = results.unbind(dim=-1)
    mixture = change.inverse(mixture_of(fitted))
    return Descent(mixture, kl, used.long(), accepted.long(), converged == 1)
