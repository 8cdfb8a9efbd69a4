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


class CarbonHead(nn.Module):
    r"""Carbon fluxes that add up.

    The network predicts gross primary production, the share of it that the plants keep
    (carbon-use efficiency, CUE), and heterotrophic respiration:

    .. math::
        \mathrm{GPP} = s_G \log(1 + e^a), \quad \mathrm{CUE} = \sigma(b), \quad
        \mathrm{Rh} = s_R \log(1 + e^r), \quad
        \mathrm{NPP} = \mathrm{CUE} \cdot \mathrm{GPP}, \quad
        \mathrm{NEP} = \mathrm{NPP} - \mathrm{Rh}

    GPP, NPP and Rh are never negative, NPP never exceeds GPP, and the last line holds to the
    last bit. Outputs and targets are in physical units; losses should divide by the deviations.

    Args:
        hidden: H.
        scale: Of the training data; unit fluxes if not given. Kept with the weights.

    Raises:
        ValueError: The scale is not that of four fluxes, or a deviation is not positive.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, scale: FluxScale | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, 3)
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

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) to GPP, NPP, NEP and Rh, (..., 4)."""
        a, b, r = self.linear(hidden).unbind(-1)
        gpp = functional.softplus(a) * self.deviation[0]
        npp = torch.sigmoid(b) * gpp
        rh = functional.softplus(r) * self.deviation[3]
        return torch.stack((gpp, npp, npp - rh, rh), dim=-1)

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
