"""What is known of a run when its page is composed."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.accounts.usage import RunUsage
from cluster.status import MemberStatus
from pipelines.plan import load_plan
from pipelines.report.content import Link


@dataclass(frozen=True)
class RunState:
    """A run as it stands.

    Attributes:
        usage: What its members were given and used.
        members: Where they stand; empty where Slurm does not say.
        now: When that was, in seconds since the epoch.
        advice: What to ask for next time, in sentences.
        problem: Why it is not known where the members stand, if it is not.
    """

    usage: RunUsage
    members: Sequence[MemberStatus]
    now: float
    advice: Sequence[str] = ()
    problem: str = ""

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.usage.run

    @cached_property
    def plan(self) -> Mapping[str, Any] | None:
        """The plan; None of a run that an executor made."""
        return load_plan(self.run) if (self.run / "plan.yaml").exists() else None

    @cached_property
    def scores(self) -> Mapping[str, Any]:
        """What ``collect`` measured; empty before that."""
        try:
            record = json.loads((self.run / "report" / "evaluation.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def link(self, page: Path, *names: str) -> Link:
        """What leads from a page to a file of the run.

        Args:
            page: The page's file.
            names: The parts of the file's path in the run directory.
        """
        return Link("/".join(names), quote(os.path.relpath(self.run.joinpath(*names), page.parent)))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with keys as they are written on the command line."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def clock(moment: float) -> str:
    """A time in this machine's zone."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
