"""From hidden states to predicted values."""

from typing import ClassVar, NamedTuple

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


class FluxHead(nn.Module):
    """Fluxes of which some are computed from the others, so that they add up.

    Outputs and targets are in physical units; losses should divide by the deviations.

    Args:
        hidden: H.
        scale: Of the training data; unit fluxes if not given. Kept with the weights.

    Raises:
        ValueError: The scale is not that of these fluxes, or a deviation is not positive.
    """

    #: The outputs, in order.
    fluxes: ClassVar[tuple[str, ...]]
    #: How many values the network predicts.
    predicted: ClassVar[int]
    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, scale: FluxScale | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, self.predicted)
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


class CarbonHead(FluxHead):
    r"""Carbon fluxes of plants and soil.

    The network predicts gross primary production, the share of it that the plants keep
    (carbon-use efficiency, CUE), and heterotrophic respiration:

    .. math::
        \mathrm{GPP} = s_G \log(1 + e^a), \quad \mathrm{CUE} = \sigma(b), \quad
        \mathrm{Rh} = s_R \log(1 + e^r), \quad
        \mathrm{NPP} = \mathrm{CUE} \cdot \mathrm{GPP}, \quad
        \mathrm{NEP} = \mathrm{NPP} - \mathrm{Rh}

    GPP, NPP and Rh are never negative, NPP never exceeds GPP, and the last line holds to the
    last bit.
    """

    fluxes = ("GPP", "NPP", "NEP", "Rh")
    predicted = 3

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) to GPP, NPP, NEP and Rh, (..., 4)."""
        a, b, r = self.linear(hidden).unbind(-1)
        gpp = functional.softplus(a) * self.deviation[0]
        npp = torch.sigmoid(b) * gpp
        rh = functional.softplus(r) * self.deviation[3]
        return torch.stack((gpp, npp, npp - rh, rh), dim=-1)


class ExchangeHead(FluxHead):
    r"""Carbon fluxes as towers have them: NEE is RECO - GPP to the last bit.

    .. math::
        \mathrm{GPP} = s_G \log(1 + e^a), \quad \mathrm{RECO} = s_R \log(1 + e^r), \quad
        \mathrm{NEE} = \mathrm{RECO} - \mathrm{GPP}
    """

    fluxes = ("GPP", "RECO", "NEE")
    predicted = 2

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) to GPP, RECO and NEE, (..., 3)."""
        gpp, reco = (functional.softplus(self.linear(hidden)) * self.deviation[:2]).unbind(-1)
        return torch.stack((gpp, reco, reco - gpp), dim=-1)


class AnomalyHead(FluxHead):
    """What is left of GPP, RECO and NEE, of either sign: NEE is RECO - GPP to the last bit.

    Added to forecasts that add up themselves, those of a linear regression say, it keeps the sum.
    """

    fluxes = ("GPP", "RECO", "NEE")
    predicted = 2

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) to anomalies of GPP, RECO and NEE, (..., 3)."""
        gpp, reco = (self.linear(hidden) * self.deviation[:2]).unbind(-1)
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
