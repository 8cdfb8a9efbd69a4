"""Compiled preparation of one density on its grid, as in torch: the tests compare them."""

import hashlib
import math
from pathlib import Path

from kernels.gmm.fused_normal import Array, compiled
from kernels.gmm.orientation import TIE


@compiled
def finite(values: Array) -> bool:
    """Whether all values are."""
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return math.isfinite(total)


@compiled
def copy(source: Array, target: Array) -> None:
    """Copy a state (3, K)."""
    for i in range(source.shape[0]):
        for k in range(source.shape[1]):
            target[i, k] = source[i, k]


@compiled
def sort_components(theta: Array) -> None:
    """Put the components of a state in the order of their means."""
    for c in range(1, theta.shape[1]):
        for d in range(c, 0, -1):
            if theta[1, d - 1] <= theta[1, d]:
                break
            for row in range(3):
                theta[row, d - 1], theta[row, d] = theta[row, d], theta[row, d - 1]


@compiled
def standardize(masses: Array, edges: Array, out: Array) -> tuple[float, float]:
    """Edges in the coordinates of ``gridded.Standardization``; returns its shift and scale."""
    origin, mean, variance = edges[0], 0.0, 0.0
    for i in range(len(masses)):
        mean += masses[i] * 0.5 * ((edges[i] - origin) + (edges[i + 1] - origin))
    for i in range(len(masses)):
        low, high = edges[i] - origin, edges[i + 1] - origin
        middle, width = 0.5 * (low + high) - mean, high - low
        variance += masses[i] * (middle * middle + width * width / 12)
    shift, scale = mean + origin, math.sqrt(variance)
    for j in range(len(edges)):
        out[j] = (edges[j] - shift) / scale
    return shift, scale


@compiled
def orient(masses: Array, edges: Array, out: Array) -> bool:
    """Masses, and edges in place, as by ``Orientation``; returns whether they are mirrored."""
    n, third, fifth = len(masses), 0.0, 0.0
    for i in range(n):
        middle, width = 0.5 * (edges[i] + edges[i + 1]), edges[i + 1] - edges[i]
        square, first = middle * middle, masses[i] * middle
        third += first * (square + 0.25 * width * width)
        fifth += first * square * square
    mirrored = (third if abs(third) > TIE else fifth) < -TIE
    for i in range(n):
        out[i] = masses[n - 1 - i] if mirrored else masses[i]
    if mirrored:
        for j in range((n + 2) // 2):
            edges[j], edges[n - j] = -edges[n - j], -edges[j]
    return mirrored


@compiled
def accumulate(masses: Array, cdf: Array) -> None:
    """Distribution function at the edges, from zero to one."""
    total = 0.0
    cdf[0] = 0.0
    for i in range(len(masses)):
        total += masses[i]
        cdf[i + 1] = min(total, 1.0)


@compiled
def interpolate(x: Array, y: Array, at: Array, out: Array) -> None:
    """Piecewise linear y over x at points, both increasing; constant beyond the ends."""
    right = 1
    for q in range(len(at)):
        while right < len(x) - 1 and x[right] <= at[q]:
            right += 1
        share = (at[q] - x[right - 1]) / max(x[right] - x[right - 1], 1e-20)
        out[q] = y[right - 1] + min(max(share, 0.0), 1.0) * (y[right] - y[right - 1])


@compiled
def quantile_state(
    edges: Array, recipe: Array, cdf: Array, low: float, high: float, state: Array
) -> None:
    """As ``start.quantile_start``, in standard coordinates; low and high bound the log sigmas."""
    k, width = state.shape[1], recipe[1]
    interpolate(cdf, edges, recipe[0], state[1])
    for c in range(k):
        sigma = abs(width[c])
        if width[c] < 0 and k > 1:
            first, last = max(c - 1, 0), min(c + 1, k - 1)
            sigma *= (state[1, last] - state[1, first]) / (last - first)
        state[0, c] = -math.log(k)
        state[2, c] = min(max(math.log(max(sigma, 2 * math.exp(low))), low), high)


@compiled
def narrowest(edges: Array) -> float:
    """Width of the narrowest cell."""
    least = math.inf
    for i in range(len(edges) - 1):
        least = min(least, edges[i + 1] - edges[i])
    return least


def revision() -> int:
    """A number that changes with any source that compiled code or its constants come from.

    The compiler's cache watches one file, but its key holds what an entry closes over.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    return int(digest.hexdigest()[:12], 16)
