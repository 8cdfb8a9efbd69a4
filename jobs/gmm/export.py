"""The best member's network as one small file, with the command that made it."""

import io
import json
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cluster.records.files import write_atomic
from jobs.gmm.config import GmmConfig
from jobs.outputs import weights_path
from pipelines.config import load, preset_names
from pipelines.plan import CIRCUMSTANCES, git_state, identity

_YAML = Path(__file__).with_name("gmm.yaml")


def export_path(run: Path) -> Path:
    """Where the exported network lies in the run directory."""
    return run / "model" / "refiner.pt"


def export_best(config: GmmConfig, run: Path, member: int, validation: float) -> Path:
    """Write a member's network with its configuration, whole or not at all.

    The file holds tensors and plain values alone, so ``torch.load(..., weights_only=True)`` reads
    it: ``config`` (of the network), ``weights``, and ``made_by``.

    Args:
        config: The job.
        run: The run directory.
        member: Whose network.
        validation: Its last validation.
    """
    weights = torch.load(weights_path(run, member), map_location="cpu", weights_only=True)
    refiner = config.member_config(member).refiner
    made_by = {
        "command": command(config),
        "member": member,
        "point": dict(config.point_of(member)),
        "seed_number": config.seed_number(member),
        "validation_kl": validation,
        "config_digest": identity(config),
        "git": git_state(),
        "yaoki": version("yaoki"),
    }
    buffer = io.BytesIO()
    torch.save({"config": refiner.model_dump(), "weights": weights, "made_by": made_by}, buffer)
    path = export_path(run)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return path


def command(config: GmmConfig) -> str:
    """The shortest command that runs a job again: a preset, and what differs from it."""
    wanted = dict(_values(config))
    commands = []
    for preset in preset_names(_YAML):
        theirs = dict(_values(load(GmmConfig, _YAML, preset).config))
        changed = [f"{k}={json.dumps(v)}" for k, v in wanted.items() if theirs[k] != v]
        # An override of a mapping joins the preset's, so what the preset sweeps may stay.
        if identity(load(GmmConfig, _YAML, preset, changed).config) == identity(config):
            words = ["yaoki", "run", "gmm", "--preset", preset, *changed]
            commands.append((len(words), shlex.join(words)))
    return min(commands)[1]


def _values(config: GmmConfig) -> Iterator[tuple[str, Any]]:
    """Every value that is computed with, by its dotted path; a sweep is one value."""
    for key, value in config.model_dump(mode="json", exclude=set(CIRCUMSTANCES)).items():
        if isinstance(value, dict) and key != "sweep":
            yield from ((f"{key}.{name}", below) for name, below in value.items())
        else:
            yield key, value
