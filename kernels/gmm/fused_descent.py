"""One compiled descent, as :func:`kernels.gmm.descent.descend` does it for a batch."""

import math
from typing import NamedTuple

import numpy as np

from kernels.gmm.acceleration import LEAST_DAMPING, LEAST_LOG_WEIGHT
from kernels.gmm.fused_cells import TINY, Work, evaluate, far_sums, maximize, moment_sums
from kernels.gmm.fused_grid import copy
from kernels.gmm.fused_normal import Array, compiled
from kernels.gmm.fused_scoring import advance, damped_step

METHODS = ("em", "squarem", "scoring")
_EM, _SQUAREM, _SCORING = range(3)


class Task(NamedTuple):
    """What is fitted, in standard coordinates."""

    masses: Array  # (N)
    edges: Array  # (N+1)
    low: float  # bounds of log sigma
    high: float


class Plan(NamedTuple):
    """How, and how far."""

    method: int
    warm: int  # EM steps before the first of scoring
    budget: int  # evaluations
    tolerance: float  # of the divergence
    damping: float  # the first


class Memory(NamedTuple):
    """States (3, K) of a descent."""

    trial: Array  # evaluated next
    em: Array  # the EM step from the state: what is taken where a trial fails
    start: Array  # the state before the last step


@compiled
def _extrapolate(task: Task, start: Array, first: Array, second: Array, out: Array) -> None:
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
def descend_row(
    task: Task, plan: Plan, state: Array, work: Work, memory: Memory, result: Array
) -> None:
    """Fit in place. A round evaluates an EM step, which is safe, or a bolder trial.

    The result is divergence, evaluations, bold trials taken, and whether it converged.
    """
    trial, em, start = memory
    damping = plan.damping
    copy(state, trial)
    copy(state, em)
    kl, used, accepted, phase, bold, done = np.inf, 0, 0, 0, False, False
    while used < plan.budget and not done:
        ahead = evaluate(task.masses, task.edges, trial, work)
        used += 1
        if bold and not ahead <= kl:
            copy(em, trial)
            bold, phase = False, 0
            damping = max(8 * damping, LEAST_DAMPING)
            continue
        done = kl - ahead <= plan.tolerance and not bold and plan.method != _SCORING
        accepted, damping = accepted + bold, (damping / 4 if bold else damping)
        copy(state, start)
        copy(trial, state)
        kl = ahead
        if used == plan.budget:
            break
        moment_sums(state, work)
        far = far_sums(task.masses, task.edges, state, work) > 0
        maximize(state, task.low, task.high, work.sums, em)
        bold = phase == 1 or (plan.method == _SCORING and used > plan.warm and not far)
        phase = 1 - phase if plan.method == _SQUAREM else 0
        if plan.method == _SCORING and bold:
            damping, promise = damped_step(task.masses, state, task.low, task.high, damping, work)
            done = promise <= plan.tolerance
            advance(state, task.low, task.high, work, trial)
        elif bold:
            _extrapolate(task, start, state, em, trial)
        else:
            copy(em, trial)
    result[0], result[1], result[2], result[3] = kl, used, accepted, done
