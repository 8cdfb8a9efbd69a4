"""Configurations: YAML 1.2 in, one frozen and typed object out, every problem told by its line."""

from cluster.scheduler.quantities import MemorySize, Walltime
from pipelines.config.fields import Config
from pipelines.config.loader import ConfigError, Source
from pipelines.config.meanings import meanings
from pipelines.config.render import digest, dump_yaml
from pipelines.config.resolve import Resolved, amend, load, preset_names, with_values

__all__ = [
    "Config",
    "ConfigError",
    "MemorySize",
    "Resolved",
    "Source",
    "Walltime",
    "amend",
    "digest",
    "dump_yaml",
    "load",
    "meanings",
    "preset_names",
    "with_values",
]
