"""Stage ``collect``: seal the ensemble, compare variants, seeds and splits, and report."""

import math
from pathlib import Path

import torch

from cluster import Member
from jobs.collecting import write_report
from jobs.lstm.collected import Collected, tested_networks
from jobs.lstm.config import LstmConfig
from jobs.lstm.evaluation import METHODS, SHARES_OF
from jobs.lstm.sites import read_records
from jobs.outputs import ensemble_path
from pipelines.ensemble import EnsembleError
from pipelines.ensemble import collect as seal


def collect(config: LstmConfig, member: Member) -> dict[str, float]:
    """Seal the ensemble, write ``report/``, and return the scores.

    Raises:
        EnsembleError: A member is missing or damaged.
    """
    return summarize(config, member.run)


def summarize(config: LstmConfig, run: Path, partial: bool = False) -> dict[str, float]:
    """Seal what is whole, compare, and write the report.

    Args:
        config: The job.
        run: The run directory.
        partial: Go on although members are missing.

    Raises:
        EnsembleError: Members are missing, or none has a validation that is finite.
    """
    from jobs.lstm.pairs import compare_all, save
    from jobs.lstm.ranking import save_search  # brings matplotlib
    from jobs.lstm.showing import section

    torch.set_num_threads(config.resources.collect.cpus)
    manifest = seal(ensemble_path(run), partial)
    records = read_records(config, run)
    members = list(tested_networks(config, run, manifest["valid"], records.flux_names))
    found = Collected(config, run, members, records)
    if not any(math.isfinite(member.validation) for member in members):
        raise EnsembleError(f"{run}: expected a member with a finite validation, found none")
    scores = evaluate(found)
    comparisons = compare_all(found)
    if config.search.method != "grid":
        save_search(found)
    write_report(run, "lstm", scores, lambda: section(found, scores, comparisons))
    save(found, comparisons)
    return scores


def evaluate(found: Collected) -> dict[str, float]:
    """For each kind of split, how good its best member is over sites, and the references."""
    scores = {}
    for kind, member in found.best.items():
        scores[f"{kind}_validation"] = member.validation
        for method in METHODS:
            prefix = kind if method == "network" else f"{kind}_{method}"
            medians = zip(member.fluxes, member.spread("nse", method).median, strict=True)
            scores |= {f"{prefix}_{flux}_nse": float(value) for flux, value in medians}
        bias = member.annual_bias
        scores |= {f"{kind}_{member.net}_bias_{part}": value for part, value in bias.items()}
        scores[f"{kind}_mass_residual"] = member.mass_residual
        if drift := member.drift_size:
            for n, flux in enumerate(SHARES_OF):
                scores[f"{kind}_nep_drift_{flux}"] = float(drift.median[-1, n])
                scores[f"{kind}_nep_drift_{flux}_p90"] = float(drift.p90[-1, n])
    return scores
