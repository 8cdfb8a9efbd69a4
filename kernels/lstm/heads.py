"""From hidden states to predicted values."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearHead(nn.Linear):
    """Outputs in whatever units the targets have; what is fed back is the output itself."""

    def normalize(self, y: Tensor) -> Tensor:
        """What the recurrence hears of values y (..., D_out)."""
        return y


class FluxScale(NamedTuple):
    """Mean and standard deviation of GPP, NPP, NEP and Rh over the training data, (4) each, in
    the units of the targets (g C per square meter and day, say)."""

    mean: Tensor
    deviation: Tensor


class SiteTerms(NamedTuple):
    """How the carbon head's sites differ.

    Attributes:
        levels: Of GPP, CUE and Rh, (B, 3).
        modulation: Scale, less one, and shift of its hidden units, (B, 2 W).
    """

    levels: Tensor | None = None
    modulation: Tensor | None = None


ALIKE = SiteTerms()
"""Sites that do not differ."""


class CarbonHead(nn.Module):
    r"""Carbon fluxes that add up.

    The network predicts gross primary production, the share of it that the plants keep
    (carbon-use efficiency, CUE), and heterotrophic respiration:

    .. math::
        \mathrm{GPP} = s_G e^{l_G} \log(1 + e^a), \quad \mathrm{CUE} = \sigma(b + l_C), \quad
        \mathrm{Rh} = s_R e^{l_R} \log(1 + e^r),

        \mathrm{NPP} = \mathrm{CUE} \cdot \mathrm{GPP}, \quad
        \mathrm{NEP} = \mathrm{NPP} - \mathrm{Rh}

    The levels l of a site are zero unless they are given. Linear in static features that are
    logarithms they are a power law, such as respiration is of a pool and its turnover. A hidden
    layer (SiLU) between the state and a, b, r is scaled and shifted by what is given (FiLM).

    GPP, NPP and Rh are never negative, NPP never exceeds GPP, and the last line holds to the
    last bit. Outputs and targets are in physical units; losses should divide by the deviations.

    Args:
        hidden: H.
        scale: Of the training data; unit fluxes if not given. Kept with the weights.
        width: W, of the hidden layer, or 0 for none.

    Raises:
        ValueError: The scale is not that of four fluxes, or a deviation is not positive.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, scale: FluxScale | None = None, width: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, width) if width else None
        self.linear = nn.Linear(width or hidden, 3)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("deviation", torch.ones(4))
        if scale is not None:
            self.set_scale(scale)

    def set_scale(self, scale: FluxScale) -> None:
        """Take the scale of the training data (GPP, NPP, NEP, Rh)."""
        if scale.mean.shape != (4,) or scale.deviation.shape != (4,) or scale.deviation.min() <= 0:
            raise ValueError(
                "expected the means and positive deviations of GPP, NPP, NEP and Rh, found "
                f"{scale.mean.tolist()} and {scale.deviation.tolist()}"
            )
        self.mean.copy_(scale.mean)
        self.deviation.copy_(scale.deviation)

    def forward(self, hidden: Tensor, site: SiteTerms = ALIKE) -> Tensor:
        """Hidden states (..., B, H) to GPP, NPP, NEP and Rh, (..., B, 4)."""
        a, b, r = self.linear(self._look(hidden, site)).unbind(-1)
        gpp_scale, rh_scale = self.deviation[0], self.deviation[3]
        if site.levels is not None:
            gpp_level, cue_level, rh_level = site.levels.unbind(-1)
            gpp_scale, rh_scale = gpp_scale * gpp_level.exp(), rh_scale * rh_level.exp()
            b = b + cue_level
        gpp = functional.softplus(a) * gpp_scale
        npp = torch.sigmoid(b) * gpp
        rh = functional.softplus(r) * rh_scale
        return torch.stack((gpp, npp, npp - rh, rh), dim=-1)

    def _look(self, hidden: Tensor, site: SiteTerms) -> Tensor:
        if self.inner is None:
            return hidden
        sums = self.inner(hidden)
        if site.modulation is not None:
            scale, shift = site.modulation.chunk(2, dim=-1)
            sums = sums * (1 + scale) + shift
        return functional.silu(sums)

    def normalize(self, y: Tensor) -> Tensor:
        """What the recurrence hears of fluxes y (..., 4): standardized."""
        return (y - self.mean) / self.deviation


Head = LinearHead | CarbonHead


def mass_residual(fluxes: Tensor) -> Tensor:
    """|NEP - (NPP - Rh)| of fluxes (..., 4) in the order GPP, NPP, NEP, Rh: (...)."""
    _, npp, nep, rh = fluxes.unbind(-1)
    return (nep - (npp - rh)).abs()


def ecosystem_exchange(fluxes: Tensor) -> Tensor:
    """GPP, RECO and NEE, as eddy covariance has them, of GPP, NPP, NEP and Rh: (..., 3).

    RECO = GPP - NEP is the respiration of plants and soil, NEE = -NEP the loss to the air.
    """
    gpp, _, nep, _ = fluxes.unbind(-1)
    return torch.stack((gpp, gpp - nep, -nep), dim=-1)
