"""Clark's moment matching: every arrival is a Gaussian, and stays one through each maximum.

References:
    Clark, The greatest of a finite set of random variables, Operations Research 9 (1961), 145-162.
"""

import math

import numpy as np
import scipy.special
from numpy.typing import NDArray

from benchmarks.timing.circuit import FACTORS, Circuit

Array = NDArray[np.float64]


def endpoint_moments(circuit: Circuit, correlated: bool) -> tuple[float, float]:
    """Mean and standard deviation of the endpoint's arrival.

    Args:
        circuit: The gates.
        correlated: Keep the covariances of all arrivals, as Clark shows how to; else two
            arrivals are taken as independent wherever they meet.
    """
    gates = len(circuit.law)
    mean = np.zeros(gates)
    covariance = np.zeros((gates + FACTORS, gates + FACTORS))  # the factors behind the gates
    factors = slice(gates, gates + FACTORS)
    covariance[factors, factors] = np.eye(FACTORS)
    for gate in range(gates):
        inputs = circuit.inputs[gate][circuit.inputs[gate] >= 0]
        slope = circuit.nominal[gate] * circuit.global_shares[gate]
        center, row, variance = _latest(mean, covariance, inputs, correlated)
        mean[gate] = center + circuit.nominal[gate]
        local = circuit.local[gate] ** 2
        if correlated:
            shared = slope @ row[factors]
            row = row + slope @ covariance[factors]
            row[gate] = variance + 2 * shared + slope @ slope + local
            covariance[gate], covariance[:, gate] = row, row
        else:
            covariance[gate, gate] = variance + slope @ slope + local
    order = circuit.ends[np.argsort(-mean[circuit.ends])]
    center, _, variance = _latest(mean, covariance, order, correlated)
    return center, math.sqrt(variance)


def _latest(
    mean: Array, covariance: Array, inputs: NDArray[np.integer], correlated: bool
) -> tuple[float, Array, float]:
    """Mean of the latest input, its covariance with all, and its variance."""
    if not len(inputs):
        return 0.0, np.zeros(len(covariance)), 0.0
    first, *others = inputs.tolist()
    center, row, variance = mean[first], covariance[first], covariance[first, first]
    for other in others:
        theirs, spread = mean[other], covariance[other, other]
        between = row[other] if correlated else 0.0
        theta = math.sqrt(max(variance + spread - 2 * between, 1e-12))
        alpha = (center - theirs) / theta
        share = float(scipy.special.ndtr(alpha))
        height = math.exp(-alpha * alpha / 2) / math.sqrt(2 * math.pi)
        new = share * center + (1 - share) * theirs + theta * height
        second = share * (variance + center**2) + (1 - share) * (spread + theirs**2)
        variance = second + (center + theirs) * theta * height - new**2
        center = new
        if correlated:
            row = share * row + (1 - share) * covariance[other]
    return center, row, variance
