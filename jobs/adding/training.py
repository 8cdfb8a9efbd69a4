"""Stage ``train``: each member trains one network until it has learned, or its steps are up."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster import Attempt, Member
from jobs.adding.config import AddingConfig
from jobs.adding.problem import Adding, measured_on, predicted, squared_error
from jobs.outputs import ensemble_path, publish_weights, resume, tracker, weights_path
from kernels.lstm import AddingNetwork, AddingSettings
from pipelines.ensemble import ArraySpec, create_ensemble, gather_provenance, write_member
from pipelines.plan import identity
from pipelines.seeds import derived_seed
from pipelines.tracking import read_metrics
from pipelines.training.loop import Trainer, make_deterministic


def train(config: AddingConfig, member: Member, attempt: Attempt) -> dict[str, float]:
    """Train one network and commit what it says; returns its steps and its errors."""
    mine = config.member_config(member.index)
    seed = derived_seed(config.seed, "train", config.seed_number(member.index))
    make_deterministic(config.resources.train.cpus, seed)
    network = untrained(mine).to("cuda" if torch.cuda.is_available() else "cpu")
    with tracker(config.tracking, config, member, attempt) as tracking:
        objective = Adding(mine, seed, network)
        trainer = Trainer(network, objective, mine.training, tracking.record, attempt)
        resume(attempt, trainer, tracking)
        for _ in attempt.steps(trainer):
            trainer.step()
            trainer.stopped = trainer.best < mine.task.goal
    publish_weights(trainer.final_network, weights_path(member.run, member.index))
    found = measured(mine, trainer.final_network, member)
    commit(config, member, found, seed, attempt.number)
    errors = {"validation": trainer.best, "test": float(found["test"])}
    return errors | {"steps": trainer.steps_done, "skipped": trainer.skipped}


def untrained(config: AddingConfig) -> AddingNetwork:
    """The network of a member's configuration."""
    chosen = config.chosen
    return AddingNetwork(
        AddingSettings(chosen.kind, chosen.hidden, config.length, chosen.from_mean)
    )


def measured(config: AddingConfig, network: nn.Module, member: Member) -> dict[str, Any]:
    """All arrays of a member of the ensemble, by name; after the last validation all is NaN."""
    rows = read_metrics(member.directory / "metrics.jsonl")
    curve = np.array([row["validation"] for row in rows if "validation" in row], np.float32)
    sequences = measured_on(config, "validation")
    return {
        "validation": curve,
        "step": config.chosen.validate_every * np.arange(1, len(curve) + 1, dtype=np.float32),
        "prediction": predicted(network, sequences).numpy(),
        "sum": sequences.y.squeeze(-1).numpy(),
        "test": np.float32(squared_error(network, measured_on(config, "test"))),
    }


def commit(
    config: AddingConfig, member: Member, found: Mapping[str, Any], seed: int, fence: int
) -> None:
    """Write a member of the ensemble."""
    path, specs = ensemble_path(member.run), layout(config)
    attributes = {
        "title": "Networks for the Adding Problem",
        "config_digest": identity(config),
    }
    create_ensemble(path, config.members, specs, attributes)
    arrays = {spec.name: _padded(found[spec.name], spec) for spec in specs}
    write_member(path, member.index, arrays, gather_provenance(identity(config), seed), fence)


def layout(config: AddingConfig) -> list[ArraySpec]:
    """What a member writes."""
    members = (config.member_config(index) for index in range(0, config.members, config.seeds))
    validations = (max(mine.training.epochs for mine in members),)
    sequences = (config.evaluation.validation,)
    return [
        ArraySpec("validation", validations, ("check",), long_name="MSE on validation sequences"),
        ArraySpec("step", validations, ("check",), long_name="steps of training done by then"),
        ArraySpec("prediction", sequences, ("sequence",), long_name="sum, as the network has it"),
        ArraySpec("sum", sequences, ("sequence",), long_name="sum of the two marked values"),
        ArraySpec("test", (), (), long_name="MSE on test sequences"),
    ]


def _padded(values: Any, spec: ArraySpec) -> Any:
    whole = np.full(spec.shape, np.nan, np.float32)
    whole[tuple(slice(size) for size in np.shape(values))] = values
    return whole
