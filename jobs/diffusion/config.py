"""The configuration of the diffusion job, and the stages that follow from it."""

import math
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipelines.config import Config
from pipelines.plan import Resources, StagePlan
from pipelines.tracking.settings import TrackingConfig
from pipelines.training.settings import TrainingConfig


class SimulationConfig(Config):
    """Kolmogorov flow: what is simulated and what is kept of it.

    Attributes:
        grid: Cells along each side of the solver's grid.
        coarsen: Cells that are averaged into one along each side.
        reynolds: Reynolds number.
        drag: Linear drag, per unit of time.
        dt: Time step.
        frame: Time between frames.
        spinup: Frames that are dropped at the start.
        frames: Frames that are kept.
        trajectories: How many, over all shards; at least one each to train, validate and test.
        per_shard: Trajectories a file; each file is one member of the array.
        precision: Of the solver.
    """

    grid: PositiveInt = 128
    coarsen: PositiveInt = 2
    reynolds: PositiveFloat = 1000.0
    drag: NonNegativeFloat = 0.1
    dt: PositiveFloat = 0.01
    frame: PositiveFloat = 0.2
    spinup: NonNegativeInt = 64
    frames: PositiveInt = 64
    trajectories: Annotated[int, Field(ge=3)] = 1024
    per_shard: PositiveInt = 32
    precision: Literal["float32", "float64"] = "float64"

    @property
    def size(self) -> int:
        """Cells along each side of what is kept."""
        return self.grid // self.coarsen

    @property
    def shards(self) -> int:
        """Number of files."""
        return math.ceil(self.trajectories / self.per_shard)

    @model_validator(mode="after")
    def _fits(self) -> "SimulationConfig":
        if self.grid % self.coarsen:
            raise ValueError(f"grid {self.grid} is not a multiple of coarsen {self.coarsen}")
        if self.size % 8:
            raise ValueError(f"grid / coarsen must be a multiple of 8, found {self.size}")
        steps = self.frame / self.dt
        if round(steps) == 0 or abs(steps - round(steps)) > 1e-6 * steps:
            raise ValueError(f"frame {self.frame} is not a multiple of dt {self.dt}")
        return self


class NetworkConfig(Config):
    """The score network.

    Attributes:
        window: Frames that it sees at once, odd.
        embedding: Features of the time embedding.
        channels: Channels of each level of the U-Net, from fine to coarse.
        blocks: Residual blocks of each level.
        kernel_size: Filter size, odd.
        activation: Nonlinearity.
        wiener: Start from the best linear denoiser and learn what it cannot know.
        schedule: Noise schedule of the diffusion.
    """

    window: PositiveInt = 5
    embedding: PositiveInt = 64
    channels: tuple[PositiveInt, ...] = (96, 192, 384)
    blocks: tuple[PositiveInt, ...] = (3, 3, 3)
    kernel_size: PositiveInt = 3
    activation: Literal["SiLU", "GELU", "ReLU"] = "SiLU"
    wiener: bool = False
    schedule: Literal["cosine_squared", "cosine"] = "cosine_squared"

    @model_validator(mode="after")
    def _is_odd(self) -> "NetworkConfig":
        if self.window % 2 == 0 or self.kernel_size % 2 == 0:
            raise ValueError("window and kernel_size must be odd")
        if len(self.channels) != len(self.blocks):
            raise ValueError("channels and blocks must have one entry a level each")
        return self


class ObservationConfig(Config):
    """What is observed of the true trajectory.

    Attributes:
        space: Every how many cells along each side.
        time: Every how many frames.
        std: Standard deviation of the noise, in units of velocity.
    """

    space: PositiveInt = 4
    time: PositiveInt = 1
    std: PositiveFloat = 0.1


class AssimilationConfig(Config):
    """How the posterior is sampled.

    Attributes:
        frames: Length of the trajectory.
        samples: Posterior samples of each member.
        steps: Predictor steps.
        corrections: Langevin corrections a step.
        tau: Their amplitude.
        gamma: Share of the denoiser's error that counts as observation noise.
        chunk: Windows that go through the network at once.
    """

    frames: PositiveInt = 16
    samples: PositiveInt = 4
    steps: PositiveInt = 256
    corrections: NonNegativeInt = 1
    tau: NonNegativeFloat = 0.5
    gamma: NonNegativeFloat = 1e-2
    chunk: PositiveInt = 16


class StageResources(Config):
    """What one member of each stage asks of Slurm."""

    simulate: Resources = Resources()
    train: Resources = Resources()
    assimilate: Resources = Resources()
    collect: Resources = Resources()


class DiffusionConfig(Config):
    """The diffusion job.

    Attributes:
        seed: All randomness follows from it.
        members: Networks of the ensemble, trained from different seeds.
        augment: Shift windows by the symmetries of the flow while training.
    """

    seed: int = 0
    members: PositiveInt = 3
    augment: bool = False
    simulation: SimulationConfig = SimulationConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    observation: ObservationConfig = ObservationConfig()
    assimilation: AssimilationConfig = AssimilationConfig()
    tracking: TrackingConfig = TrackingConfig(project="yaoki-diffusion")
    resources: StageResources = StageResources()

    @model_validator(mode="after")
    def _fits(self) -> "DiffusionConfig":
        shortest = max(self.network.window, self.assimilation.frames)
        if self.simulation.frames < shortest:
            raise ValueError(
                f"simulation.frames must be at least {shortest}, the longer of network.window and "
                f"assimilation.frames; found {self.simulation.frames}"
            )
        if self.assimilation.frames < self.network.window:
            raise ValueError("assimilation.frames must be at least network.window")
        return self


def stages(config: DiffusionConfig) -> list[StagePlan]:
    """The arrays of the job, in order."""
    ask = config.resources
    here = "jobs.diffusion"
    return [
        StagePlan(
            "simulate", f"{here}.simulation:simulate", config.simulation.shards, ask.simulate
        ),
        StagePlan("train", f"{here}.training:train", config.members, ask.train),
        StagePlan(
            "assimilate", f"{here}.assimilation:assimilate", config.members, ask.assimilate, "each"
        ),
        StagePlan("collect", f"{here}.collection:collect", 1, ask.collect, "end"),
    ]
