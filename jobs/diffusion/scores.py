"""The score of the configured network, new or from trained weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jobs.diffusion.config import DiffusionConfig
from kernels.score import LocalScoreUNet, MCScoreNet
from kernels.sde import VPSDE
from kernels.wiener import WienerDenoiser, WienerScore

#: Velocity components of a frame.
COMPONENTS = 2


def perturbation(config: DiffusionConfig) -> VPSDE:
    """The diffusion that the network is trained for."""
    return VPSDE(config.network.schedule)


def window_kernel(config: DiffusionConfig, mean: Tensor, spectrum: Tensor) -> nn.Module:
    """The noise estimator of windows, untrained.

    Args:
        config: The job.
        mean: Mean profile of the windows, for the linear part.
        spectrum: Their cross-spectral matrices.
    """
    ask = config.network
    channels = ask.window * COMPONENTS
    network = LocalScoreUNet(
        channels,
        config.simulation.size,
        context=channels if ask.wiener else 0,
        embedding=ask.embedding,
        hidden_channels=ask.channels,
        hidden_blocks=ask.blocks,
        kernel_size=ask.kernel_size,
        activation=getattr(nn, ask.activation),
    )
    if not ask.wiener:
        return network
    return WienerScore(network, WienerDenoiser(mean, spectrum, perturbation(config)))


def trained_score(config: DiffusionConfig, weights: Mapping[str, Tensor]) -> MCScoreNet:
    """The score of trajectories from the weights of a window kernel."""
    size, channels = config.simulation.size, config.network.window * COMPONENTS
    blank = torch.zeros(size, size // 2 + 1, channels, channels, dtype=torch.complex128)
    kernel = window_kernel(config, torch.zeros(channels, size, 1), blank)
    kernel.load_state_dict(weights)
    order = config.network.window // 2
    score = MCScoreNet(COMPONENTS, order, kernel.eval(), config.assimilation.chunk)
    return score.requires_grad_(False)
