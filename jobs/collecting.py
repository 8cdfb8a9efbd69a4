"""What the stages ``collect`` share: members looked at from their end, and the report."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from cluster import Member
from cluster.records.files import write_atomic
from jobs.outputs import ensemble_path
from jobs.page import write_page
from pipelines.report import Picture, Section, save_section
from pipelines.tracking import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TrainedMember:
    """One member of the stage ``train``, looked at from its end.

    Attributes:
        index: Of the member.
        rows: Its metrics.
    """

    index: int
    rows: Sequence[Mapping[str, Any]]

    @property
    def validation(self) -> float:
        """Its last validation, by which members are chosen; what is tested on chooses nothing."""
        found = self._validations
        return found[-1] if found else math.inf

    @property
    def best_validation(self) -> float:
        """The lowest of its validations on the way."""
        return min(self._validations, default=math.inf)

    @property
    def _validations(self) -> list[float]:
        found = [float(row["validation"]) for row in self.rows if "validation" in row]
        return [value if math.isfinite(value) else math.inf for value in found]


def metrics(run: Path, member: int, stage: str = "train") -> list[dict[str, Any]]:
    """What a member of the stage ``train`` logged, or a trial."""
    path = Member(run, stage, member).directory / "metrics.jsonl"
    return [dict(row) for row in read_metrics(path)]


def stored(run: Path, name: str, member: int) -> Any:
    """An array of one member of the ensemble."""
    array: Any = zarr.open_array(ensemble_path(run), path=name, mode="r")
    return array[member]


def write_report(
    run: Path, job: str, scores: Mapping[str, float], show: Callable[[], Section]
) -> None:
    """Write ``report/``: the scores, then what the job shows of them, then the page of the run."""
    (run / "report").mkdir(exist_ok=True)
    write_atomic(run / "report" / "evaluation.json", json.dumps(scores, indent=1).encode())
    save_section(run, job, show())
    write_page(run)


def save_picture(run: Path, name: str, figure: "Figure", caption: str, alt: str) -> Picture:
    """Write a picture of the report."""
    from pipelines.figures import save_png  # brings matplotlib

    path = run / "report" / f"{name}.png"
    save_png(figure, path)
    return Picture(caption, alt, path)
