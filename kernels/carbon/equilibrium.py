"""Spin-up: the pools that a repeated climate leads to, without the millennia that soil takes."""

import numpy as np
from numpy.typing import NDArray

from kernels.carbon.dalec import (
    Flow,
    Forcing,
    Parameters,
    Pools,
    grow_canopy,
    litter_flow,
    prepare,
    soil_flow,
    structural_flows,
)

Array = NDArray[np.float64]


def equilibrium(parameters: Parameters, forcing: Forcing, cycles: int, leaf_area: float) -> Pools:
    """Pools at which a forcing that is repeated for ever brings the ecosystem back to its start.

    Photosynthesis depends on labile and foliar carbon alone, so these two are stepped, ``cycles``
    times through the forcing. The other four are then linear, and their fixed point is exact.

    Args:
        parameters: Of each site, (B).
        forcing: Whole years of it.
        cycles: How often to repeat it for the canopy.
        leaf_area: The leaf area index to start from; a bare canopy would stay bare.

    Returns:
        Pools at the start of the forcing, (B). Where a canopy dies, all go to zero.

    Raises:
        ValueError: A pool would lose more in a day than it holds.
    """
    p, rates = parameters, prepare(parameters, forcing)
    start = leaf_area * p.leaf_mass
    gpp, labile, foliage = grow_canopy(p, rates, start, start)
    for _ in range(cycles - 1):
        gpp, labile, foliage = grow_canopy(p, rates, labile[-1], foliage[-1])
    root_flow, wood_flow = structural_flows(p, rates, gpp)
    roots, wood = root_flow.run(fixed_point(root_flow)), wood_flow.run(fixed_point(wood_flow))
    into_litter = litter_flow(p, rates, foliage, roots)
    litter = into_litter.run(fixed_point(into_litter))
    soil = fixed_point(soil_flow(p, rates, wood, litter))
    return Pools(labile[-1], foliage[-1], roots[0], wood[0], litter[0], soil)


def fixed_point(flow: Flow) -> Array:
    r"""The start from which a linear pool returns to itself, (B).

    With :math:`x_{t+1} = (1 - l_t) x_t + g_t` the way through all days is
    :math:`x \mapsto A x + G`, so the fixed point is :math:`G / (1 - A)`, where
    :math:`1 - A` is taken from logarithms: slow pools lose next to nothing in a cycle.
    """
    gathered = flow.run(np.zeros(flow.gain.shape[1]))[-1]
    with np.errstate(divide="ignore"):
        # Not `sum`: the order in which it adds depends on how many sites there are.
        kept = np.log1p(-flow.loss).cumsum(axis=0)[-1]
    return np.asarray(gathered / -np.expm1(kept))
