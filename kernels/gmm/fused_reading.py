"""Compiled reading of gridded densities: masses of cells, and what is wrong with each row."""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.gmm.findings import (
    EMPTY,
    NEGATIVE,
    NEGATIVE_TOLERANCE,
    NOT_FINITE,
    NOT_NORMALIZED,
    ROUGHNESS,
    SUM_TOLERANCE,
    UNRESOLVED,
)
from kernels.gmm.fused_grid import revision
from kernels.gmm.fused_normal import Array, compiled_exactly, kept

_BAD = NOT_FINITE | NEGATIVE | EMPTY


@compiled_exactly
def _increases(grid: Array) -> bool:
    """Whether a grid is finite and every step of it goes up."""
    for j in range(1, len(grid)):
        if not grid[j] - grid[j - 1] > 0:
            return False
    return math.isfinite(grid[0]) and math.isfinite(grid[-1])


@compiled_exactly
def _edges_about(points: Array, edges: Array) -> None:
    """Edges (N+1) half way between points (N), and as far beyond the ends."""
    n = len(points)
    for j in range(1, n):
        edges[j] = 0.5 * (points[j] + points[j - 1])
    edges[0], edges[n] = 2 * points[0] - edges[1], 2 * points[n - 1] - edges[n - 1]


@compiled_exactly
def _scaled(values: Array, out: Array) -> tuple[float, int]:
    """Values over the greatest of them, what is negative cut; that one, and what is wrong."""
    scale = 0.0
    for i in range(len(values)):
        if not math.isfinite(values[i]):
            out[:] = 0.0
            return 1.0, NOT_FINITE
        scale = max(scale, abs(values[i]))
    whole, positive, lost = scale if scale > 0 else 1.0, 0.0, 0.0
    for i in range(len(values)):
        value = values[i] / whole
        out[i] = max(value, 0.0)
        positive += out[i]
        lost += out[i] - value
    return scale, NEGATIVE if lost > NEGATIVE_TOLERANCE * positive else 0


@compiled_exactly
def _integrate(points: Array, edges: Array, density: Array) -> None:
    r"""Densities at points become masses of the cells about them, in place.

    The integral of the parabola through three points, of fourth order on a smooth grid; on a
    uniform one :math:`h (f_i + \Delta^2 f_i / 24)`. Taking :math:`h f_i` would narrow a Gaussian's
    variance by :math:`h^2/12` against the cell masses that a fit compares it with. The first and
    the last cell are of second order.
    """
    n, before = len(points), density[0]
    density[0] *= edges[1] - edges[0]
    for i in range(1, n - 1):
        here, after = density[i], density[i + 1]
        left, right = points[i] - points[i - 1], points[i + 1] - points[i]
        low, high = (here - before) / left, (after - here) / right
        bend = (high - low) / (left + right)
        slope = low + bend * left
        # Moments of the cell, from -left/2 to right/2, about its point.
        first = (right * right - left * left) / 8
        second = (right * right * right + left * left * left) / 24
        mass = here * (edges[i + 1] - edges[i]) + slope * first + bend * second
        density[i] = 0.0 if mass < 0 else mass
        before = here
    density[n - 1] *= edges[n] - edges[n - 1]


@compiled_exactly
def _has_mass(masses: Array) -> bool:
    """Whether there is any, and no NaN."""
    some = False
    for i in range(len(masses)):
        if math.isnan(masses[i]):
            return False
        some |= masses[i] > 0
    return some


@compiled_exactly
def _divide(masses: Array, total: float) -> bool:
    """By the total; whether then a second difference is more than a grid resolves."""
    for i in range(len(masses)):
        masses[i] /= total
    for i in range(2, len(masses)):
        bend = (masses[i] - masses[i - 1]) - (masses[i - 1] - masses[i - 2])
        if abs(bend) > ROUGHNESS:
            return True
    return False


def _entries(revision: int) -> tuple[Callable[..., bool], Callable[..., None]]:
    """The loops over rows, kept on disk for as long as the revision is the same."""

    def weigh_rows(
        values: Array,
        grid: Array,
        points: bool,
        edges: Array,
        masses: Array,
        scales: Array,
        flags: NDArray[np.uint8],
    ) -> bool:
        """Edges and masses, whose sum is not yet one; False where a grid does not increase."""
        for g in range(len(grid) if revision >= 0 else 0):
            if not _increases(grid[g]):
                return False
            if grid.shape[1] < edges.shape[1]:
                _edges_about(grid[g], edges[g])
            else:
                edges[g] = grid[g]
        for b in range(len(values)):
            g = b if len(grid) > 1 else 0
            scales[b], flags[b] = _scaled(values[b], masses[b])
            if points:
                _integrate(grid[g], edges[g], masses[b])
            if not _has_mass(masses[b]):
                flags[b] = flags[b] & NOT_FINITE or EMPTY
                masses[b] = edges[g, 1:] - edges[g, :-1]
        return True

    def normalize_rows(
        masses: Array,
        totals: Array,
        scales: Array,
        summed: bool,
        report: bool,
        flags: NDArray[np.uint8],
    ) -> None:
        """Divide by the totals; NaN in bad rows if that is how they are reported."""
        for b in range(len(masses) if revision >= 0 else 0):
            rough = _divide(masses[b], totals[b])
            if not flags[b] & (NOT_FINITE | EMPTY):
                odd = summed and abs(totals[b] * scales[b] - 1) > SUM_TOLERANCE
                flags[b] |= (NOT_NORMALIZED if odd else 0) | (UNRESOLVED if rough else 0)
            if report and flags[b] & _BAD:
                masses[b] = np.nan

    return cast(tuple[Any, Any], (kept(weigh_rows), kept(normalize_rows)))


_weigh_rows, _normalize_rows = _entries(revision())


def read_rows(
    values: Array, grid: Array, points: bool, summed: bool, report: bool
) -> tuple[Array, Array, NDArray[np.uint8]]:
    """Masses (B, N), edges (B or 1, N+1), and bits of what was found (B).

    Args:
        values: (B, N).
        grid: Points (B or 1, N) or edges (B or 1, N+1).
        points: Whether the values are densities at points.
        summed: Whether they ought to have a sum of one.
        report: Whether rows that are no densities become NaN, or what can be made of them.

    Raises:
        ValueError: A grid does not increase.
    """
    rows, cells = values.shape
    masses, edges = np.empty((rows, cells)), np.empty((len(grid), cells + 1))
    scales, flags = np.empty(rows), np.empty(rows, np.uint8)
    if not _weigh_rows(values, grid, points, edges, masses, scales, flags):
        raise ValueError("a grid must be finite and increase from point to point; sort it")
    # Torch adds pairwise, which keeps digits that a loop would lose.
    totals = torch.from_numpy(masses).sum(dim=-1).numpy()
    _normalize_rows(masses, totals, scales, summed, report, flags)
    return masses, edges, flags
