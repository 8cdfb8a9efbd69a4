"""The pictures that members of the diffusion job log."""

import numpy as np
import torch
from torch import Tensor, nn

from jobs.diffusion.pictures import fit_picture
from kernels.sde import VPSDE


class Oracle(nn.Module):
    """A network that knows the noise."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = nn.Parameter(noise)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.noise


def test_who_knows_the_noise_draws_the_windows_as_they_were() -> None:
    draws = torch.Generator().manual_seed(3)
    x, noise = torch.randn(2, 3, 4, 8, 8, generator=draws)
    t = torch.tensor([0.2, 0.5, 0.6])
    picture = fit_picture(Oracle(noise), VPSDE(), x, t, noise)
    clean, noisy, estimate = np.split(picture, 3)
    assert clean.shape == (8, 24)
    np.testing.assert_allclose(estimate, clean, atol=1e-4)
    assert np.abs(noisy - clean).max() > 0.1
    assert {clean[:, :8].min(), clean[:, :8].max()} & {0.0, 1.0}  # the scale is the first field's
