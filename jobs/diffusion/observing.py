"""What is observed: a true trajectory that no network was trained on, sparse and noisy."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jobs.diffusion.config import DiffusionConfig
from jobs.diffusion.scores import COMPONENTS
from jobs.diffusion.simulation import shard_paths
from kernels.interpolation import optimal_interpolation
from kernels.wiener import window_spectrum
from pipelines.seeds import generator
from pipelines.trajectories import TrajectoryDataset, split

#: Windows from which the covariance of whole trajectories is estimated, at most.
_COVARIANCE_WINDOWS = 1024


@dataclass(frozen=True)
class Scene:
    """A truth and what was seen of it.

    Attributes:
        truth: The trajectory, (frames, 2, size, size).
        observed: Its noisy observations, (frames seen, 2, rows seen, columns seen).
        space: Every how many cells is seen, along each side.
        time: Every how many frames is seen.
        std: Standard deviation of the noise.
    """

    truth: Tensor
    observed: Tensor
    space: int
    time: int
    std: float

    def observe(self, x: Tensor) -> Tensor:
        """The observation operator: trajectories (*, frames, 2, size, size) to what is seen."""
        offset = self.space // 2
        return x[..., :: self.time, :, offset :: self.space, offset :: self.space]


def scene(config: DiffusionConfig, run: Path) -> Scene:
    """The first held-out test trajectory and its observations, the same for every member."""
    ask = config.observation
    data = _trajectories(config, run)
    test = split(len(data))[2]
    truth = _frames(data.windows([test[0]], [0])[0])
    seen = Scene(truth, truth, ask.space, ask.time, ask.std)
    clean = seen.observe(truth)
    noise = torch.randn(clean.shape, generator=generator(config.seed, "observation"))
    return Scene(truth, clean + ask.std * noise, ask.space, ask.time, ask.std)


def interpolated(config: DiffusionConfig, run: Path, seen: Scene) -> Tensor:
    """Optimal interpolation of the observations, (frames, 2, size, size): what to beat.

    The covariance is that of whole training trajectories, in space and time.
    """
    data = _trajectories(config, run)
    train = split(len(data))[0]
    draws = generator(config.seed, "covariance")
    count = max(2 * data.window * COMPONENTS, _COVARIANCE_WINDOWS)
    starts = torch.randint(data.starts, (count,), generator=draws)
    windows = data.windows([train[i % len(train)] for i in range(count)], starts.tolist())
    mean, spectrum = window_spectrum(windows)

    def observe(flat: Tensor) -> Tensor:
        return seen.observe(_frames(flat))

    estimate = optimal_interpolation(observe, seen.observed, mean, spectrum, seen.std)
    return _frames(estimate).to(seen.truth.dtype)


def _trajectories(config: DiffusionConfig, run: Path) -> TrajectoryDataset:
    return TrajectoryDataset(shard_paths(run, config), config.assimilation.frames)


def _frames(flat: Tensor) -> Tensor:
    """Channels (frames * 2, size, size) apart, (frames, 2, size, size)."""
    return flat.reshape(-1, COMPONENTS, *flat.shape[1:])
