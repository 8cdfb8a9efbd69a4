"""What the diffusion job's presets say, what is one ensemble, and what is refused."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from jobs.catalog import WORKLOADS
from jobs.diffusion.assimilation import _attributes
from jobs.diffusion.config import (
    AssimilationConfig,
    DiffusionConfig,
    NetworkConfig,
    ObservationConfig,
    SimulationConfig,
    StageResources,
    stages,
)
from jobs.diffusion.scores import window_kernel
from pipelines.plan import Resources
from pipelines.tracking.settings import TrackingConfig
from pipelines.training.settings import TrainingConfig


def resolved(*overrides: str, preset: str = "smoke") -> DiffusionConfig:
    found = WORKLOADS["diffusion"].resolve(preset, overrides).config
    assert isinstance(found, DiffusionConfig)
    return found


CONFIG = resolved()


def test_paper_is_the_published_configuration() -> None:
    paper = resolved(preset="paper")
    assert paper.members == 3
    assert paper.network == NetworkConfig(
        window=5,
        embedding=64,
        channels=(96, 192, 384),
        blocks=(3, 3, 3),
        kernel_size=3,
        activation="SiLU",
        wiener=False,
        schedule="cosine_squared",
    )
    assert paper.training == TrainingConfig(
        epochs=4096,
        batch=32,
        microbatch=32,
        learning_rate=2e-4,
        weight_decay=1e-3,
        schedule="linear",
        precision="fp32",
        clip=None,
        ema=None,
        patience=None,
    )
    assert not paper.augment
    (training,) = (stage for stage in stages(paper) if stage.name == "train")
    assert training.members == 3
    asked = training.resources.parameters("train")
    assert (asked["cpus_per_task"], asked["gpus_per_node"], asked["mem_gb"]) == (4, 1, 16)
    assert asked["timeout_min"] == 24 * 60


def test_the_network_of_paper_has_the_published_size() -> None:
    paper = resolved(preset="paper")
    with torch.device("meta"):
        blank = torch.zeros(64, 33, 10, 10, dtype=torch.complex128)
        network = window_kernel(paper, torch.zeros(10, 64, 1), blank)
    assert sum(p.numel() for p in network.parameters()) == 22_874_922


def test_more_time_or_another_tracker_is_the_same_ensemble() -> None:
    other = CONFIG.model_copy(
        update={
            "resources": StageResources(train=Resources(cpus=2)),
            "tracking": TrackingConfig(wandb=True),
        }
    )
    assert _attributes(other) == _attributes(CONFIG)
    assert _attributes(CONFIG.model_copy(update={"seed": 1})) != _attributes(CONFIG)


@pytest.mark.parametrize(
    ("section", "wrong", "said"),
    [
        (SimulationConfig, {"frame": 0.25, "dt": 0.1}, "frame 0.25 is not a multiple of dt 0.1"),
        (SimulationConfig, {"frame": 0.001}, "not a multiple of dt"),
        (SimulationConfig, {"grid": 100, "coarsen": 3}, "not a multiple of coarsen 3"),
        (SimulationConfig, {"trajectories": 2}, "greater than or equal to 3"),
        (SimulationConfig, {"per_shard": 0}, "greater than 0"),
        (NetworkConfig, {"window": 4}, "must be odd"),
        (NetworkConfig, {"blocks": (3, 3)}, "one entry a level"),
        (NetworkConfig, {"channels": (96, 0, 384)}, "greater than 0"),
        (ObservationConfig, {"space": 0}, "greater than 0"),
        (ObservationConfig, {"std": 0.0}, "greater than 0"),
        (AssimilationConfig, {"samples": 0}, "greater than 0"),
        (DiffusionConfig, {"members": 0}, "greater than 0"),
    ],
)
def test_impossible_values_are_refused_before_anything_runs(
    section: type[Any], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        section(**wrong)
