"""What the members or trials of a run came to, network by network."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median

import numpy as np

from jobs.collecting import TrainedMember, metrics, stored
from jobs.lstm.config import LstmConfig
from jobs.lstm.evaluation import METHODS
from jobs.outputs import ensemble_path
from pipelines.config.sweep import Point
from pipelines.ensemble import read_commit
from pipelines.fluxes import FluxRecords
from pipelines.fluxes.records import Array
from pipelines.fluxes.scores import DAYS_A_YEAR, SCORES, Spread, over_sites
from pipelines.search import TRIALS, State


@dataclass(frozen=True)
class Tested(TrainedMember):
    """The network of one member or trial.

    Attributes:
        point: Of the sweep.
        kind: Of its split.
        fluxes: Names of what it predicts.
        scores: By method, score, site and flux; NaN for sites that were not tested.
        mass_residual: The largest of all days, gC m-2 d-1.
        parameters: Of its network.
        drift: Of NEP by site, year and what it is a share of; nothing where it was not tested.
    """

    point: Point
    kind: str
    fluxes: Sequence[str]
    scores: Array
    mass_residual: float
    parameters: int
    drift: Array | None = None

    @property
    def milliseconds(self) -> float:
        """Of a step, validations shared out: the median over epochs, NaN for fewer than two."""
        ended = [row for row in self.rows if "loss" in row]
        found = [
            1000 * (b["time"] - a["time"]) / (b["step"] - a["step"])
            for a, b in pairwise(ended)
            if a["attempt"] == b["attempt"]
        ]
        return median(found) if found else math.nan

    def spread(self, score: str, method: str = "network") -> Spread:
        """A score over sites, by flux."""
        return over_sites(self.scores[METHODS.index(method), list(SCORES).index(score)])

    @property
    def net(self) -> str:
        """The net flux: ``nep`` of the process model, ``nee`` of towers."""
        return next(name for name in ("nep", "nee") if name in self.fluxes)

    @property
    def annual_bias(self) -> Mapping[str, float]:
        """Bias of the net flux over sites, gC m-2 a-1: median, p10, p90."""
        net, spread = self.fluxes.index(self.net), self.spread("bias")
        return {name: float(DAYS_A_YEAR * part[net]) for name, part in spread._asdict().items()}

    @property
    def drift_size(self) -> Spread | None:
        """The size of its drift over sites, by year and what it is a share of."""
        return None if self.drift is None else over_sites(np.abs(self.drift))


@dataclass(frozen=True)
class Collected:
    """All that is known at the end of a run.

    Attributes:
        config: The job.
        run: The run directory.
        members: Those that are whole.
        records: Of all sites.
    """

    config: LstmConfig
    run: Path
    members: Sequence[Tested]
    records: FluxRecords

    @cached_property
    def best(self) -> Mapping[str, Tested]:
        """For each kind of split, the member with the lowest last validation."""
        kinds = dict.fromkeys(member.kind for member in self.members)
        return {
            kind: min((m for m in self.members if m.kind == kind), key=lambda m: m.validation)
            for kind in kinds
        }

    @property
    def by_point(self) -> Iterator[tuple[Point, list[Tested]]]:
        """The points of the sweep with their members, one a seed."""
        for _, some in groupby(self.members, lambda m: m.index // self.config.seeds):
            mine = list(some)
            yield mine[0].point, mine


def point_name(point: Point) -> str:
    """A point of the sweep, in words."""
    told = ", ".join(f"{path.split('.')[-1]} {_rounded(value)}" for path, value in point.items())
    return told or "as configured"


def _rounded(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def tested_networks(
    config: LstmConfig, run: Path, whole: Sequence[int], fluxes: Sequence[str]
) -> Iterator[Tested]:
    """The networks that were trained to their end, of those that are whole in the ensemble."""
    if not config.search.adaptive:
        for index in whole:
            point = config.point_of(index)
            yield _tested(config, run, index, "train", point, fluxes)
        return
    from jobs.lstm.searching import open_study  # brings Optuna

    for trial in open_study(config, run).trials:
        if trial.state is State.COMPLETE and trial.number in whole:
            yield _tested(config, run, trial.number, TRIALS, trial.point, fluxes)


def _tested(
    config: LstmConfig, run: Path, index: int, stage: str, point: Point, fluxes: Sequence[str]
) -> Tested:
    told, mine = read_commit(ensemble_path(run), index), config.at_point(point)
    drift = np.asarray(stored(run, "nep_drift", index), np.float64) if mine.drifts else None
    return Tested(
        index,
        metrics(run, index, stage),
        point,
        mine.split.kind,
        fluxes,
        np.asarray(stored(run, "scores", index), np.float64),
        float(stored(run, "mass_residual", index)[0]),
        0 if told is None else int(told.provenance["parameters"]),
        drift,
    )
