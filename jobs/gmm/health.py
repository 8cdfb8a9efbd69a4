"""What a look at fitted mixtures tells of a training: whether they collapse, and why."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.gmm.em import sigma_bounds
from kernels.gmm.gridded import Gridded, gridded_moments
from kernels.gmm.mixture import Mixture, log_density

#: A sigma within this factor of the least one counts as held by it.
_AT_FLOOR = 1.001


def health(gridded: Gridded, fits: Sequence[Mixture]) -> dict[str, float]:
    """The signs of collapse, over all densities and numbers of components.

    Args:
        gridded: The densities.
        fits: Mixtures of them, (B, K), one for each K.

    Returns:
        Least, median and greatest sigma and the mean and greatest peak of the fitted density, in
        units of each density's standard deviation; the share of sigmas at their floor; the least
        input mass and the least and greatest sum of them; the share of neighboring means that are
        out of order.
    """
    _, variance = gridded_moments(gridded)
    sd = variance.sqrt().unsqueeze(-1)
    floor = sigma_bounds(gridded).low
    sigmas = torch.cat([(fit.sigmas / sd).flatten() for fit in fits])
    held = torch.cat([(fit.sigmas <= _AT_FLOOR * floor).flatten() for fit in fits])
    crossed = torch.cat([(fit.means.diff(dim=-1) <= 0).flatten() for fit in fits])
    peaks = torch.cat([peak(gridded, fit) * sd.squeeze(-1) for fit in fits])
    sums = gridded.masses.double().sum(dim=-1)
    return {
        "sigma_min": float(sigmas.min()),
        "sigma_median": float(sigmas.median()),
        "sigma_max": float(sigmas.max()),
        "floor_ratio": _share(held),
        "peak_mean": float(peaks.mean()),
        "peak_max": float(peaks.max()),
        "w_min": float(gridded.masses.min()),
        "w_sum_min": float(sums.min()),
        "w_sum_max": float(sums.max()),
        "order_violations": _share(crossed),
    }


def peak(gridded: Gridded, fit: Mixture) -> Tensor:
    """Greatest fitted density at the middles of the cells and at the means, (B).

    A spike narrower than a cell shows at its mean alone.
    """
    middles = (gridded.edges[..., 1:] + gridded.edges[..., :-1]) / 2
    places = torch.cat([middles.expand(len(fit.means), -1), fit.means], dim=-1)
    return log_density(fit, places).amax(dim=-1).exp()


def _share(flags: Tensor) -> float:
    # One component has no neighbor to be out of order with.
    return float(flags.double().mean()) if flags.numel() else 0.0
