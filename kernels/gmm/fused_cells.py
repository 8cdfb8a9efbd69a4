"""Compiled EM on the masses of cells, for one density at a time.

A state is an array (3, K): log weights, means, log sigmas. An edge costs a component one
exponential and one rational function, which its mass and all of its derivatives share.
"""

import math
from typing import NamedTuple

import numpy as np

from kernels.gmm.fused_normal import (
    DENSITY,
    LEAST_EXPONENT,
    Array,
    at_edges,
    compiled,
    compiled_sums,
    fast_log,
    scaled_tail,
)

#: Cells with less model mass than this are treated in the log domain...
FAR = 1e-280
#: ...if they hold more than this: what is less cannot move a likelihood by 1e-12.
NEGLIGIBLE = 1e-18
TINY = 1e-300


class Work(NamedTuple):
    """Memory for one density: K components, N cells."""

    z: Array  # (K, N+1), standard edges
    phi: Array  # (K, N+1)
    tail: Array  # (K, N+1)
    joint: Array  # (K, N), masses of the components
    total: Array  # (N), of the mixture
    ratio: Array  # (N), data over model; zero where the log domain takes over
    rise: Array  # (N+1), its steps at the edges
    sums: Array  # (5, K), expected mass and sums of density moments
    slopes: Array  # (3K, N), derivatives of log p
    scaled: Array  # (N)
    matrix: Array  # (3K, 3K)
    factor: Array  # (3K, 3K)
    diagonal: Array  # (3K), added to the matrix
    gradient: Array  # (3K), of minus the divergence
    step: Array  # (3K)


@compiled
def work_for(k: int, n: int) -> Work:
    """Uninitialized memory."""
    return Work(
        np.empty((k, n + 1)),
        np.empty((k, n + 1)),
        np.empty((k, n + 1)),
        np.empty((k, n)),
        np.empty(n),
        np.empty(n),
        np.empty(n + 1),
        np.empty((5, k)),
        np.empty((3 * k, n)),
        np.empty(n),
        np.empty((3 * k, 3 * k)),
        np.empty((3 * k, 3 * k)),
        np.empty(3 * k),
        np.empty(3 * k),
        np.empty(3 * k),
    )


@compiled
def _component(edges: Array, state: Array, k: int, least: float, work: Work) -> None:
    """Masses of one component, added to the total."""
    z, tail, joint, total, n = work.z[k], work.tail[k], work.joint[k], work.total, len(edges) - 1
    at_edges(edges, state[1, k], math.exp(-state[2, k]), least, z, work.phi[k], tail)
    weight = math.exp(state[0, k])
    for i in range(n):
        joint[i] = weight * (tail[i + 1] - tail[i])
    below = 0
    for j in range(n + 1):
        below += z[j] < 0
    if 0 < below < n + 1:
        joint[below - 1] += weight
    for i in range(n):
        total[i] += joint[i]


@compiled
def model_masses(edges: Array, state: Array, floor: float, least: float, work: Work) -> None:
    """Masses of the cells, and a floor; exponents are cut at ``least``."""
    for i in range(len(edges) - 1):
        work.total[i] = floor
    for k in range(state.shape[1]):
        _component(edges, state, k, least, work)


@compiled_sums
def divergence(masses: Array, work: Work) -> float:
    """Sum of w log(w / p) over the cells that are near; w / p is kept."""
    total, ratio, scaled, n = work.total, work.ratio, work.scaled, len(masses)
    for i in range(n):
        near = total[i] > FAR
        ratio[i] = masses[i] / max(total[i], FAR) if near else 0.0
        scaled[i] = masses[i] * fast_log(max(ratio[i], TINY)) if near else 0.0
    kl = 0.0
    for i in range(n):
        kl += scaled[i]
    return kl


@compiled
def evaluate(masses: Array, edges: Array, state: Array, work: Work) -> float:
    """Binned divergence of a state (3, K): log weights, means, log sigmas."""
    model_masses(edges, state, 0.0, LEAST_EXPONENT, work)
    kl = divergence(masses, work)
    for i in range(len(masses)):
        if work.total[i] <= FAR and masses[i] > NEGLIGIBLE:
            kl += masses[i] * (math.log(masses[i]) - _far_log_mass(edges, state, i))
    return kl


@compiled
def _far_interval(low: float, high: float) -> tuple[float, float, float]:
    """Log mass of an interval, and the density at its ends over the mass."""
    sign = 1.0 if low + high >= 0 else -1.0
    a, b = (low, high) if sign > 0 else (-high, -low)
    decay = math.exp(-0.5 * (b - a) * (b + a))
    if a > 0:
        mass = scaled_tail(a) - decay * scaled_tail(b)
    else:
        mass = 0.5 * (math.erf(b * 0.5**0.5) - math.erf(a * 0.5**0.5)) * math.exp(0.5 * a * a)
    near = DENSITY / mass
    log_mass = math.log(mass) - 0.5 * a * a
    return (log_mass, near, near * decay) if sign > 0 else (log_mass, near * decay, near)


@compiled
def _far_log_mass(edges: Array, state: Array, i: int) -> float:
    """Log mass of a cell that is far from everything."""
    most = -np.inf
    total = 0.0
    for k in range(state.shape[1]):
        rate = math.exp(-state[2, k])
        low, high = (edges[i] - state[1, k]) * rate, (edges[i + 1] - state[1, k]) * rate
        value = state[0, k] + _far_interval(low, high)[0]
        total = total * math.exp(min(most - value, 0.0)) + math.exp(min(value - most, 0.0))
        most = max(most, value)
    return most + math.log(total)


@compiled_sums
def moment_sums(state: Array, work: Work) -> None:
    """Expected mass of each component, and its sums of z^n phi over the steps of the ratio."""
    ratio, rise = work.ratio, work.rise
    n = len(ratio)
    rise[0], rise[n] = ratio[0], -ratio[n - 1]
    for j in range(1, n):
        rise[j] = ratio[j] - ratio[j - 1]
    for k in range(state.shape[1]):
        joint, z, phi = work.joint[k], work.z[k], work.phi[k]
        mass = zeroth = first = second = third = 0.0
        for i in range(n):
            mass += ratio[i] * joint[i]
        for j in range(n + 1):
            x = z[j]
            y = rise[j] * phi[j]
            zeroth += y
            first += x * y
            second += x * x * y
            third += x * x * x * y
        weight = math.exp(state[0, k])
        work.sums[0, k] = mass
        work.sums[1, k] = weight * zeroth
        work.sums[2, k] = weight * first
        work.sums[3, k] = weight * second
        work.sums[4, k] = weight * third


@compiled
def far_sums(masses: Array, edges: Array, state: Array, work: Work) -> int:
    """Add the cells that are far from everything; how many there are."""
    count = 0
    for i in range(len(masses)):
        if work.total[i] > FAR or not masses[i] > NEGLIGIBLE:
            continue
        count += 1
        whole = _far_log_mass(edges, state, i)
        for k in range(state.shape[1]):
            rate = math.exp(-state[2, k])
            a, b = (edges[i] - state[1, k]) * rate, (edges[i + 1] - state[1, k]) * rate
            log_mass, low, high = _far_interval(a, b)
            share = masses[i] * math.exp(state[0, k] + log_mass - whole)
            work.sums[0, k] += share
            work.sums[1, k] += share * (low - high)
            work.sums[2, k] += share * (a * low - b * high)
    return count


@compiled
def maximize(state: Array, low: float, high: float, sums: Array, out: Array) -> None:
    """The M-step, from the sums at a state; low and high bound the log sigmas."""
    total = 0.0
    for k in range(state.shape[1]):
        total += sums[0, k]
    for k in range(state.shape[1]):
        mass = sums[0, k]
        out[0, k] = math.log(max(mass, TINY) / total)
        out[1, k], out[2, k] = state[1, k], state[2, k]
        if mass > TINY:
            shift = sums[1, k] / mass
            spread = max(1.0 + sums[2, k] / mass - shift * shift, TINY)
            out[1, k] += shift * math.exp(state[2, k])
            out[2, k] = min(max(state[2, k] + 0.5 * math.log(spread), low), high)
