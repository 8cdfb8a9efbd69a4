"""The LSTM job in seconds."""

from pathlib import Path

from jobs.catalog import WORKLOADS
from jobs.lstm.config import LstmConfig
from pipelines.plan import Plan


def resolved(*overrides: str, preset: str = "smoke") -> LstmConfig:
    """A configuration of the job."""
    found = WORKLOADS["lstm"].resolve(preset, overrides).config
    assert isinstance(found, LstmConfig)
    return found


def lstm_plan(runs: Path, *overrides: str) -> Plan:
    """The plan of a small job."""
    return WORKLOADS["lstm"].plan(resolved(*overrides), runs)
