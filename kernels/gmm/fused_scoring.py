"""Compiled damped steps between Fisher scoring and Newton's method on the binned divergence."""

import math

from kernels.gmm.acceleration import (
    CURVE,
    LEAST_DAMPING,
    LEAST_LOG_WEIGHT,
    MOST_DAMPING,
    SINGULAR,
)
from kernels.gmm.fused_cells import FAR, Work
from kernels.gmm.fused_normal import Array, compiled, compiled_sums


@compiled_sums
def dot(a: Array, b: Array, n: int) -> float:
    """Sum of the first n products."""
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


@compiled
def slopes(n: int, state: Array, work: Work) -> None:
    """Derivatives of log p by log weight, mean in sigmas, and log sigma; zero in far cells."""
    k = state.shape[1]
    for i in range(n):
        work.scaled[i] = 1.0 / max(work.total[i], FAR)
    for c in range(k):
        z, phi, joint = work.z[c], work.phi[c], work.joint[c]
        weight = math.exp(state[0, c])
        share, shift, spread = work.slopes[c], work.slopes[k + c], work.slopes[2 * k + c]
        for i in range(n):
            inverse = work.scaled[i]
            share[i] = joint[i] * inverse
            shift[i] = weight * inverse * (phi[i] - phi[i + 1])
            spread[i] = weight * inverse * (z[i] * phi[i] - z[i + 1] * phi[i + 1])


@compiled
def outer_products(weights: Array, n: int, work: Work) -> None:
    """Weighted sum of the outer products of the slopes, its lower half."""
    for a in range(len(work.step)):
        row, scaled = work.slopes[a], work.scaled
        for i in range(n):
            scaled[i] = row[i] * weights[i]
        for b in range(a + 1):
            work.matrix[a, b] = dot(scaled, work.slopes[b], n)


@compiled
def _curvature(masses: Array, state: Array, curve: float, work: Work) -> None:
    """Gradient and curvature of the divergence; curve 0 is scoring, 1 Newton's.

    The outer products hold pi pi^T more than the Hessian, which is singular along equal changes
    of all log weights: it fixes that gauge, and leaves the step as it is.
    """
    k, matrix, sums = state.shape[1], work.matrix, work.sums
    slopes(len(masses), state, work)
    outer_products(masses, len(masses), work)
    for c in range(k):
        m, s = k + c, 2 * k + c
        mass, first, second = sums[0, c], sums[1, c], sums[2, c]
        third, fourth = sums[3, c], sums[4, c]
        weight = math.exp(state[0, c])
        work.gradient[c], work.gradient[m], work.gradient[s] = mass - weight, first, second
        matrix[c, c] += curve * (weight - mass)
        matrix[m, c] -= curve * first
        matrix[s, c] -= curve * second
        matrix[m, m] -= curve * second
        matrix[s, m] -= curve * (third - first)
        matrix[s, s] -= curve * (fourth - second)


@compiled
def _hold_bounds(state: Array, low: float, high: float, work: Work) -> None:
    """Take the sigmas out of the step that are at a bound and would leave."""
    k = state.shape[1]
    for i in range(2 * k, 3 * k):
        value, slope = state[2, i - 2 * k], work.gradient[i]
        if (value <= low and slope < 0) or (value >= high and slope > 0):
            work.gradient[i] = 0.0
            for j in range(3 * k):
                work.matrix[max(i, j), min(i, j)] = 0.0
            work.matrix[i, i] = 1.0


@compiled
def solve(work: Work, least: float) -> bool:
    """Solve (matrix + diagonal) step = gradient by Cholesky; False where a pivot is too small."""
    factor, step = work.factor, work.step
    n = len(step)
    for i in range(n):
        for j in range(i + 1):
            value = work.matrix[i, j]
            for c in range(j):
                value -= factor[i, c] * factor[j, c]
            if j < i:
                factor[i, j] = value * factor[j, j]
        value += work.diagonal[i]
        if not value > least:
            return False
        factor[i, i] = 1.0 / math.sqrt(value)
    for i in range(n):
        value = work.gradient[i]
        for c in range(i):
            value -= factor[i, c] * step[c]
        step[i] = value * factor[i, i]
    for i in range(n - 1, -1, -1):
        step[i] *= factor[i, i]
        for c in range(i):
            step[c] -= factor[i, c] * step[i]
    return True


@compiled
def advance(state: Array, low: float, high: float, work: Work, out: Array) -> None:
    """The state after the step, which is cut to one sigma, one e-fold."""
    k, step = state.shape[1], work.step
    length = 0.0
    for i in range(len(step)):
        length = max(length, abs(step[i]))
    cut = min(1.0, 1.0 / length) if length > 0 else 0.0
    total = 0.0
    for c in range(k):
        out[0, c] = max(state[0, c] + cut * step[c], LEAST_LOG_WEIGHT)
        out[1, c] = state[1, c] + cut * step[k + c] * math.exp(state[2, c])
        out[2, c] = min(max(state[2, c] + cut * step[2 * k + c], low), high)
        total += math.exp(out[0, c])
    for c in range(k):
        out[0, c] -= math.log(total)


@compiled
def damped_step(
    masses: Array, state: Array, low: float, high: float, damping: float, work: Work
) -> tuple[float, float]:
    """Find the step; returns the damping that it took, and the decrease that it promises."""
    _curvature(masses, state, CURVE, work)
    _hold_bounds(state, low, high, work)
    work.diagonal[:] = damping
    while not solve(work, SINGULAR) and damping < MOST_DAMPING:
        damping = max(4 * damping, LEAST_DAMPING)
        work.diagonal[:] = damping
    return damping, dot(work.gradient, work.step, len(work.step))
