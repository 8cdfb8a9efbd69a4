"""Pictures that members log: what a score makes of noise, and what it samples."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.diffusion.scores import COMPONENTS
from kernels.flow import vorticity
from kernels.sde import VPSDE, per_sample

Picture = NDArray[np.float64]


@torch.no_grad()
def fit_picture(network: nn.Module, sde: VPSDE, x: Tensor, t: Tensor, noise: Tensor) -> Picture:
    r"""Vorticity of windows, of the same with noise, and of what the network makes of these.

    That is :math:`\hat x = (x_t - \sigma_t \epsilon_\phi(x_t, t)) / \mu_t`; the first frame of each
    window is drawn.

    Args:
        network: Noise estimator.
        sde: Perturbation kernel.
        x: Windows, :math:`(n, C, H, W)`.
        t: Diffusion times, :math:`(n)`.
        noise: Standard normal noise of the shape of x.

    Returns:
        Gray levels in [0, 1], a row for each of the three: :math:`(3 H, n W)`.
    """
    device = next(network.parameters()).device
    noisy = sde.perturb(x, t, noise)
    predicted = network(noisy.to(device), t.to(device)).to(x.device)
    estimate = (noisy - per_sample(sde.sigma(t), x) * predicted) / per_sample(sde.mu(t), x)
    return shades([[w[:COMPONENTS] for w in row] for row in (x, noisy, estimate)])


def shades(fields: list[list[Tensor]]) -> Picture:
    """Vorticity in gray, on one scale: that of the first field.

    Args:
        fields: Velocities :math:`(2, H, W)` in rows and columns of equal length.
    """
    drawn = [torch.cat([vorticity(field) for field in row], dim=-1) for row in fields]
    limit = float(vorticity(fields[0][0]).abs().max()) or 1.0
    picture: Picture = (torch.cat(drawn, dim=-2).double() / limit / 2 + 0.5).numpy()
    return picture
