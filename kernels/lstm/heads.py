"""From hidden states to predicted values."""

from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearHead(nn.Linear):
    """Outputs in whatever units the targets have; what is fed back is the output itself."""

    def normalize(self, y: Tensor) -> Tensor:
        """What the recurrence hears of values y (..., D_out)."""
        return y


class FluxScale(NamedTuple):
    """Mean and standard deviation of the fluxes of a head over the training data, (F) each, in
    the units of the targets (g C per square meter and day, say)."""

    mean: Tensor
    deviation: Tensor


class SiteTerms(NamedTuple):
    """How the sites of a head of fluxes differ.

    Attributes:
        levels: Of GPP, CUE and Rh, (B, 3), for the carbon head.
        modulation: Scale, less one, and shift of its hidden units, (B, 2 W).
    """

    levels: Tensor | None = None
    modulation: Tensor | None = None


ALIKE = SiteTerms()
"""Sites that do not differ."""


class FluxHead(nn.Module):
    """Fluxes of which some are computed from the others, so that they add up.

    Outputs and targets are in physical units; losses should divide by the deviations.

    A hidden layer (SiLU) between the state and what the network predicts is scaled and shifted by
    what is given of the sites (FiLM).

    Args:
        hidden: H.
        scale: Of the training data; unit fluxes if not given. Kept with the weights.
        width: W, of the hidden layer, or 0 for none.

    Raises:
        ValueError: The scale is not that of these fluxes, or a deviation is not positive.
    """

    #: The outputs, in order.
    fluxes: ClassVar[tuple[str, ...]]
    #: How many values the network predicts.
    predicted: ClassVar[int]
    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, scale: FluxScale | None = None, width: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, width) if width else None
        self.linear = nn.Linear(width or hidden, self.predicted)
        self.register_buffer("mean", torch.zeros(len(self.fluxes)))
        self.register_buffer("deviation", torch.ones(len(self.fluxes)))
        if scale is not None:
            self.set_scale(scale)

    def set_scale(self, scale: FluxScale) -> None:
        """Take the scale of the training data, in the order of ``fluxes``."""
        shapes = {scale.mean.shape, scale.deviation.shape}
        if shapes != {self.mean.shape} or scale.deviation.min() <= 0:
            raise ValueError(
                f"expected the means and positive deviations of {', '.join(self.fluxes)}, found "
                f"{scale.mean.tolist()} and {scale.deviation.tolist()}"
            )
        self.mean.copy_(scale.mean)
        self.deviation.copy_(scale.deviation)

    def normalize(self, y: Tensor) -> Tensor:
        """What the recurrence hears of fluxes y (..., F): standardized."""
        return (y - self.mean) / self.deviation

    def _values(self, hidden: Tensor, site: SiteTerms) -> Tensor:
        """Hidden states (..., B, H) to what the network predicts, (..., B, predicted)."""
        if self.inner is None:
            return cast(Tensor, self.linear(hidden))
        sums = self.inner(hidden)
        if site.modulation is not None:
            scale, shift = site.modulation.chunk(2, dim=-1)
            sums = sums * (1 + scale) + shift
        return cast(Tensor, self.linear(functional.silu(sums)))


class CarbonHead(FluxHead):
    r"""Carbon fluxes of plants and soil.

    The network predicts gross primary production, the share of it that the plants keep
    (carbon-use efficiency, CUE), and heterotrophic respiration:

    .. math::
        \mathrm{GPP} = s_G e^{l_G} \log(1 + e^a), \quad \mathrm{CUE} = \sigma(b + l_C), \quad
        \mathrm{Rh} = s_R e^{l_R} \log(1 + e^r),

        \mathrm{NPP} = \mathrm{CUE} \cdot \mathrm{GPP}, \quad
        \mathrm{NEP} = \mathrm{NPP} - \mathrm{Rh}

    The levels l of a site are zero unless they are given. Linear in static features that are
    logarithms they are a power law, such as respiration is of a pool and its turnover.

    GPP, NPP and Rh are never negative, NPP never exceeds GPP, and the last line holds to the
    last bit.
    """

    fluxes = ("GPP", "NPP", "NEP", "Rh")
    predicted = 3

    def forward(self, hidden: Tensor, site: SiteTerms = ALIKE) -> Tensor:
        """Hidden states (..., B, H) to GPP, NPP, NEP and Rh, (..., B, 4)."""
        a, b, r = self._values(hidden, site).unbind(-1)
        gpp_scale, rh_scale = self.deviation[0], self.deviation[3]
        if site.levels is not None:
            gpp_level, cue_level, rh_level = site.levels.unbind(-1)
            gpp_scale, rh_scale = gpp_scale * gpp_level.exp(), rh_scale * rh_level.exp()
            b = b + cue_level
        gpp = functional.softplus(a) * gpp_scale
        npp = torch.sigmoid(b) * gpp
        rh = functional.softplus(r) * rh_scale
        return torch.stack((gpp, npp, npp - rh, rh), dim=-1)


class ExchangeHead(FluxHead):
    r"""Carbon fluxes as towers have them: NEE is RECO - GPP to the last bit.

    .. math::
        \mathrm{GPP} = s_G \log(1 + e^a), \quad \mathrm{RECO} = s_R \log(1 + e^r), \quad
        \mathrm{NEE} = \mathrm{RECO} - \mathrm{GPP}
    """

    fluxes = ("GPP", "RECO", "NEE")
    predicted = 2

    def forward(self, hidden: Tensor, site: SiteTerms = ALIKE) -> Tensor:
        """Hidden states (..., B, H) to GPP, RECO and NEE, (..., B, 3)."""
        values = functional.softplus(self._values(hidden, site))
        gpp, reco = (values * self.deviation[:2]).unbind(-1)
        return torch.stack((gpp, reco, reco - gpp), dim=-1)


class AnomalyHead(FluxHead):
    """What is left of GPP, RECO and NEE, of either sign: NEE is RECO - GPP to the last bit.

    Added to forecasts that add up themselves, those of a linear regression say, it keeps the sum.
    """

    fluxes = ("GPP", "RECO", "NEE")
    predicted = 2

    def forward(self, hidden: Tensor, site: SiteTerms = ALIKE) -> Tensor:
        """Hidden states (..., B, H) to anomalies of GPP, RECO and NEE, (..., B, 3)."""
        gpp, reco = (self._values(hidden, site) * self.deviation[:2]).unbind(-1)
        return torch.stack((gpp, reco, reco - gpp), dim=-1)


Head = LinearHead | FluxHead
FLUX_HEADS: dict[str, type[FluxHead]] = {
    "carbon": CarbonHead,
    "exchange": ExchangeHead,
    "anomaly": AnomalyHead,
}


def mass_residual(fluxes: Tensor) -> Tensor:
    """How far fluxes do not add up, (...): |NEP - (NPP - Rh)| of the four of :class:`CarbonHead`,
    |NEE - (RECO - GPP)| of the three of :class:`ExchangeHead`, (..., F)."""
    if fluxes.shape[-1] == len(ExchangeHead.fluxes):
        gpp, reco, nee = fluxes.unbind(-1)
        return (nee - (reco - gpp)).abs()
    _, npp, nep, rh = fluxes.unbind(-1)
    return (nep - (npp - rh)).abs()


def ecosystem_exchange(fluxes: Tensor) -> Tensor:
    """GPP, RECO and NEE, as eddy covariance has them, of GPP, NPP, NEP and Rh: (..., 3).

    RECO = GPP - NEP is the respiration of plants and soil, NEE = -NEP the loss to the air.
    """
    gpp, _, nep, _ = fluxes.unbind(-1)
    return torch.stack((gpp, gpp - nep, -nep), dim=-1)
