"""Stage ``collect``: seal the ensemble, compare it with the classical solver, export the best."""

import math
from pathlib import Path

import numpy as np
import torch

from cluster import Member
from jobs.collecting import write_report
from jobs.gmm.collected import Collected, classical_measures, trained_member
from jobs.gmm.config import GmmConfig
from jobs.gmm.export import export_best
from jobs.gmm.measuring import TestSet
from jobs.outputs import ensemble_path
from kernels.gmm.families import HELD_OUT, MAXIMA
from pipelines.ensemble import EnsembleError
from pipelines.ensemble import collect as seal


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
    members = [trained_member(run, index) for index in manifest["valid"]]
    found = Collected(config, run, members, test, classical_measures(config, test))
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
