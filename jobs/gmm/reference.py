"""The classical fit that a trained network is held against."""

import math

import torch

from kernels.gmm import Gridded, Mixture, gridded_moments
from kernels.gmm.fused import descend
from kernels.gmm.initnet import cumulative, interpolated

#: How it is called in tables, and its steps.
CLASSICAL, STEPS = "EM, 200 steps", 200


def reference(gridded: Gridded, components: int) -> Mixture:
    """Binned EM from components of equal weight at the quantiles, (B, K)."""
    start = _start(gridded, components)
    return descend(gridded, start, "em", budget=STEPS, tolerance=0.0).mixture


def _start(gridded: Gridded, components: int) -> Mixture:
    size = len(gridded.masses)
    levels = (torch.arange(components, dtype=gridded.masses.dtype) + 0.5) / components
    edges = gridded.edges.expand(size, -1)
    means = interpolated(cumulative(gridded), edges, levels.expand(size, -1))
    sd = gridded_moments(gridded)[1].sqrt().unsqueeze(-1)
    weights = torch.full_like(means, -math.log(components))
    return Mixture(weights, means, (sd / components**0.8).expand_as(means))
