"""Stage ``collect``: seal the ensemble, compare it with the classical solver, export the best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from cluster import Member
from jobs.collecting import TrainedMember, metrics, stored, write_report
from jobs.gmm.config import GmmConfig
from jobs.gmm.export import export_best
from jobs.gmm.measuring import MEASURES, Measures, TestSet
from jobs.outputs import ensemble_path
from kernels.gmm.families import HELD_OUT, MAXIMA
from kernels.gmm.solve import solve
from pipelines.ensemble import EnsembleError
from pipelines.ensemble import collect as seal

#: Steps of the classical fit that networks are held against.
EM_STEPS = 200


@dataclass(frozen=True)
class Trained(TrainedMember):
    """One member's network.

    Attributes:
        measures: What the test densities say of it.
    """

    measures: Measures


@dataclass(frozen=True)
class Collected:
    """All that is known at the end of a run.

    Attributes:
        config: The job.
        run: The run directory.
        members: Those that are whole.
        test: What they were measured on.
        classical: The same of the classical fits.
    """

    config: GmmConfig
    run: Path
    members: Sequence[Trained]
    test: TestSet
    classical: Measures

    @cached_property
    def best(self) -> Trained:
        """The member with the lowest last validation."""
        return min(self.members, key=lambda found: found.validation)


def collect(config: GmmConfig, member: Member) -> dict[str, float]:
    """Seal the ensemble, export the best member, write ``report/``, and return the scores.

    Raises:
        EnsembleError: A member is missing or damaged.
    """
    return summarize(config, member.run)


def summarize(config: GmmConfig, run: Path, partial: bool = False) -> dict[str, float]:
    """Seal what is whole, compare, export, and write the report.

    Args:
        config: The job.
        run: The run directory.
        partial: Go on although members are missing.

    Raises:
        EnsembleError: Members are missing, or none has a validation that is finite.
    """
    from jobs.gmm.showing import section  # brings matplotlib

    torch.set_num_threads(config.resources.collect.cpus)
    manifest = seal(ensemble_path(run), partial)
    test = TestSet(config)
    members = [_trained(run, index) for index in manifest["valid"]]
    found = Collected(config, run, members, test, _classical(config, test))
    if not math.isfinite(found.best.validation):
        raise EnsembleError(f"{run}: expected a member with a finite validation, found none")
    export_best(config, run, found.best.index, found.best.validation)
    scores = evaluate(found)
    write_report(run, "gmm", scores, lambda: section(found, scores))
    return scores


def evaluate(found: Collected) -> dict[str, float]:
    """How good the best member is, over all numbers of components, and EM beside it."""
    resolved = found.test.drawn.resolved.numpy()
    unseen, maxima = found.test.of(*HELD_OUT), found.test.of(*MAXIMA)
    worst = max(member.validation for member in found.members)
    scores = {"validation_kl": found.best.validation, "worst_validation_kl": worst}
    for prefix, measures in (("", found.best.measures), ("em200_", found.classical)):
        kl, tail = measures["kl"], np.abs(measures["tail_error"][:, maxima])
        scores |= {
            f"{prefix}resolved_kl_mean": float(kl[:, resolved].mean()),
            f"{prefix}resolved_kl_median": float(np.median(kl[:, resolved])),
            f"{prefix}unseen_kl_mean": float(kl[:, unseen].mean()),
            f"{prefix}cdf_error_max": float(measures["cdf_error"].max()),
            f"{prefix}tail_error_median": float(np.median(tail)),
            f"{prefix}tail_error_p95": float(np.quantile(tail, 0.95)),
            f"{prefix}finite_share": float(np.isfinite(kl).mean()),
        }
    return scores


def _trained(run: Path, index: int) -> Trained:
    measures = {name: stored(run, name, index) for name in MEASURES}
    return Trained(index, metrics(run, index), measures)


def _classical(config: GmmConfig, test: TestSet) -> Measures:
    """Binned EM from one start, which every user of such mixtures knows."""
    em = partial(solve, test.gridded, method="em", starts=1, budget=EM_STEPS, tolerance=0.0)
    fits = [em(k) for k in config.evaluation.components]
    found = [test.measured(fit.mixture) for fit in fits]
    return {name: torch.stack([each[name] for each in found]).numpy() for name in MEASURES}
