"""The diffusion job in seconds."""

from pathlib import Path

from jobs.catalog import WORKLOADS
from pipelines.plan import Plan


def diffusion_plan(runs: Path, *overrides: str, preset: str = "smoke") -> Plan:
    """The plan of a small diffusion job."""
    workload = WORKLOADS["diffusion"]
    return workload.plan(workload.resolve(preset, overrides).config, runs)
