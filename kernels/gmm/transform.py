"""Unconstrained coordinates of ordered, bounded mixtures."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kernels.gmm.em import sigma_bounds
from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture

#: Least distance of neighboring means, in widths of the grid: well above the rounding of sixteen
#: gaps in float32, and far below any cell.
GAP = 1e-5
#: Greatest magnitude of a logit: the least weight is about exp(-2 * LOGIT).
LOGIT = 20.0
#: Least and greatest argument of softplus: gaps of nothing, and of the whole grid.
_LEAST_GAP, _GREATEST_GAP = -60.0, 0.5413248546129181
_TINY = 1e-26


class ParameterTransform(NamedTuple):
    r"""The map from 3K real numbers to a mixture, in any range of float32.

    .. math::
        w = \mathrm{softmax}(a), \quad
        \mu_1 = c, \quad \mu_{k+1} = \mu_k + \delta + \mathrm{softplus}(b_k), \quad
        \sigma_k = e^{\gamma_k}

    Every coordinate is cut to its range *before* a function is taken of it. Cutting after (an
    ``exp`` that is clamped) gives finite values with NaN gradients.

    Attributes:
        low: Least first mean, (B, 1).
        width: Of the grid, (B, 1): the greatest gap, and the first mean is at most low + width.
        sigma_low: Least sigma, (B, 1).
        sigma_high: Greatest sigma, (B, 1).
    """

    low: Tensor
    width: Tensor
    sigma_low: Tensor
    sigma_high: Tensor

    @classmethod
    def of(cls, gridded: Gridded) -> "ParameterTransform":
        """The ranges that a grid and the kind of its values set."""
        first, width = gridded.edges[..., :1], gridded.edges[..., -1:] - gridded.edges[..., :1]
        bounds = sigma_bounds(gridded)
        return cls(first, width, bounds.low, bounds.high)

    def project(self, raw: Tensor) -> Mixture:
        """The mixture of coordinates (B, 3K): means strictly increasing, all of it bounded."""
        logits, places, scales = raw.chunk(3, dim=-1)
        first = torch.clamp(places[..., :1], self.low, self.low + self.width)
        # In widths of the grid, so that the map of the gaps has no unit.
        gaps = self.width * (GAP + softplus(places[..., 1:].clamp(_LEAST_GAP, _GREATEST_GAP)))
        log_sigmas = torch.clamp(scales, self.sigma_low.log(), self.sigma_high.log())
        return Mixture(
            logits.clamp(-LOGIT, LOGIT).log_softmax(dim=-1),
            torch.cat([first, gaps], dim=-1).cumsum(dim=-1),
            log_sigmas.exp(),
        )

    def inverse(self, m: Mixture) -> Tensor:
        """Coordinates (B, 3K) of mixtures whose means are in order; what is out of range is cut."""
        gaps = (m.means.diff(dim=-1) / self.width - GAP).clamp(min=_TINY)
        # The inverse of softplus, log(exp(x) - 1), without the overflow or the loss of digits.
        gaps = gaps + (-torch.expm1(-gaps)).log()
        logits = m.log_weights - m.log_weights.mean(dim=-1, keepdim=True)
        return torch.cat([logits, m.means[..., :1], gaps, m.sigmas.log()], dim=-1)

    def settle(self, m: Mixture) -> Mixture:
        """The nearest mixture that the coordinates can hold, its components in order."""
        return self.project(self.inverse(m.sort()))
