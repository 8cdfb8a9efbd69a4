"""The Adding Problem in seconds."""

from pathlib import Path

from jobs.adding.config import AddingConfig
from jobs.catalog import WORKLOADS
from pipelines.plan import Plan


def resolved(*overrides: str, preset: str = "smoke") -> AddingConfig:
    """A configuration of the job."""
    found = WORKLOADS["adding"].resolve(preset, overrides).config
    assert isinstance(found, AddingConfig)
    return found


def adding_plan(runs: Path, *overrides: str) -> Plan:
    """The plan of a small job."""
    return WORKLOADS["adding"].plan(resolved(*overrides), runs)
