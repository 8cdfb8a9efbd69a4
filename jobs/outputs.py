"""What members leave in the run directory besides checkpoints: metrics, weights, an ensemble."""

import io
from pathlib import Path

import torch
from torch import nn

from cluster import Attempt, Member
from cluster.records.files import write_atomic
from pipelines.config import Config
from pipelines.plan import identity
from pipelines.sinks import Mode, TensorBoardSink, WandbSink, run_id
from pipelines.tracking import MetricsLog, Sink, Tracker
from pipelines.tracking.settings import TrackingConfig
from pipelines.training.loop import Trainer


def tracker(ask: TrackingConfig, config: Config, member: Member, attempt: Attempt) -> Tracker:
    """The metrics log of the member, and the sinks that were asked for.

    Args:
        ask: The section ``tracking`` of the configuration.
        config: The whole of it, shown at Weights & Biases.
        member: The member.
        attempt: Its attempt.
    """
    sinks: list[Sink] = []
    if ask.wandb:
        identifier = run_id(identity(config), member.name)
        shown = config.model_dump(mode="json")
        mode: Mode = "online" if ask.online else "offline"
        sinks.append(
            WandbSink(member.directory, identifier, project=ask.project, config=shown, mode=mode)
        )
    if ask.tensorboard:
        sinks.append(TensorBoardSink(member.directory / "tensorboard"))
    return Tracker(MetricsLog(member.directory / "metrics.jsonl", attempt.number), sinks)


def resume(attempt: Attempt, trainer: Trainer, tracking: Tracker) -> None:
    """Go back to the last checkpoint, where there is one, and with it the metrics."""
    attempt.restore(trainer)
    if attempt.number > 1:
        tracking.rewind(trainer.steps_done)


def weights_path(run: Path, member: int) -> Path:
    """Where the trained weights of a member lie."""
    return run / "weights" / f"{member:04d}.pt"


def publish_weights(network: nn.Module, path: Path) -> None:
    """Write the weights whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, buffer)
    write_atomic(path, buffer.getvalue())


def ensemble_path(run: Path) -> Path:
    """Where the ensemble lies in the run directory."""
    return run / "ensemble.zarr"
