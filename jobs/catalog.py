"""The workloads, by name; nothing of them is imported before one is chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.config import Config, Resolved, load
from pipelines.plan import Plan, StagePlan

#: Preset that a workload runs with on this machine unless another is named.
DEFAULT_PRESET = "small"


@dataclass(frozen=True)
class Workload:
    """A workload: its configuration, the stages it makes, and how its output is collected.

    Attributes:
        name: As typed on the command line.
        config_class: Where its configuration's class is, as ``module:name``.
        stages: Where its function from configuration to stages is.
        summarize: Where the function is that collects a run: (config, run, partial) to scores.
        yaml: Its configuration file, below this package.
    """

    name: str
    config_class: str
    stages: str
    summarize: str
    yaml: str

    def resolve(self, preset: str | None, overrides: Sequence[str]) -> Resolved[Config]:
        """Its configuration, typed.

        Raises:
            ConfigError: With every problem that was found.
        """
        model: type[Config] = _named(self.config_class)
        return load(model, Path(__file__).parent / self.yaml, preset, overrides)

    def plan(self, config: Config, runs: Path) -> Plan:
        """What a configuration comes to."""
        stages: Callable[[Config], list[StagePlan]] = _named(self.stages)
        return Plan(self.name, config, stages(config), runs)

    def restore(self, record: dict[str, Any]) -> Config:
        """The configuration that a run directory's plan holds."""
        model: type[Config] = _named(self.config_class)
        return model.model_validate(record["config"], strict=False)

    def collect(self, config: Config, run: Path, partial: bool) -> dict[str, float]:
        """Collect a run and return its scores."""
        scores: dict[str, float] = _named(self.summarize)(config, run, partial)
        return scores


WORKLOADS = {
    workload.name: workload
    for workload in [
        Workload(
            "diffusion",
            "jobs.diffusion.config:DiffusionConfig",
            "jobs.diffusion.config:stages",
            "jobs.diffusion.collection:summarize",
            "diffusion/diffusion.yaml",
        ),
        Workload(
            "gmm",
            "jobs.gmm.config:GmmConfig",
            "jobs.gmm.config:stages",
            "jobs.gmm.collection:summarize",
            "gmm/gmm.yaml",
        ),
        Workload(
            "lstm",
            "jobs.lstm.config:LstmConfig",
            "jobs.lstm.config:stages",
            "jobs.lstm.collection:summarize",
            "lstm/lstm.yaml",
        ),
        Workload(
            "adding",
            "jobs.adding.config:AddingConfig",
            "jobs.adding.config:stages",
            "jobs.adding.collection:summarize",
            "adding/adding.yaml",
        ),
    ]
}


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
