"""Stage ``collect``: seal the ensemble, compare it with the classical solver, export the best."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from cluster import Member
from cluster.files import write_atomic
from jobs.gmm.config import GmmConfig, point_of, seed_number
from jobs.gmm.evaluation import MEASURES, TestSet, ensemble_path
from jobs.gmm.export import export_best, export_path
from jobs.gmm.pictures import Fitted, error_curves, fit_panels, health_panels
from jobs.page import write_page
from kernels.gmm.families import FAMILIES, HELD_OUT, MAXIMA
from kernels.gmm.mixture import Mixture
from kernels.gmm.solve import solve
from pipelines.ensemble import EnsembleError
from pipelines.ensemble import collect as seal
from pipelines.figures import LossCurve, loss_curves, save_png
from pipelines.report import Fact, Picture, Section, Table, save_section
from pipelines.tracking import read_metrics

Array = NDArray[Any]
Measures = Mapping[str, Array]
"""Of one method: each measure, (numbers of components, densities)."""

_REFERENCE = "EM, 200 steps"
_REFERENCE_STEPS = 200


@dataclass(frozen=True)
class Trained:
    """One member's network, looked at from its end.

    Attributes:
        index: Of the member.
        rows: Its metrics.
        measures: What the test densities say of it.
    """

    index: int
    rows: Sequence[Mapping[str, Any]]
    measures: Measures

    @property
    def validation(self) -> float:
        """Its last validation, by which members are chosen; the test densities choose nothing."""
        found = [row["validation"] for row in self.rows if "validation" in row]
        return float(found[-1]) if found and math.isfinite(found[-1]) else math.inf


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
    torch.set_num_threads(config.resources.collect.cpus)
    manifest = seal(ensemble_path(run), partial)
    members = [_trained(run, index) for index in manifest["valid"]]
    best = min(members, key=lambda found: found.validation)
    if not math.isfinite(best.validation):
        raise EnsembleError(f"{run}: expected a member with a finite validation, found none")
    export_best(config, run, best.index, best.validation)
    test = TestSet(config)
    reference = _reference(config, test)
    scores = evaluate(test, best, reference)
    (run / "report").mkdir(exist_ok=True)
    write_atomic(run / "report" / "evaluation.json", json.dumps(scores, indent=1).encode())
    save_section(run, "gmm", _section(config, run, scores, members, best, test, reference))
    write_page(run)
    return scores


def evaluate(test: TestSet, best: Trained, reference: Measures) -> dict[str, float]:
    """How good the best member is, over all numbers of components, and the reference beside it."""
    resolved = test.drawn.resolved.numpy()
    unseen, maxima = _of(test, HELD_OUT), _of(test, MAXIMA)
    scores = {"validation_kl": best.validation}
    for prefix, found in (("", best.measures), ("em200_", reference)):
        tail = np.abs(found["tail_error"][:, maxima])
        scores |= {
            f"{prefix}resolved_kl_mean": float(found["kl"][:, resolved].mean()),
            f"{prefix}resolved_kl_median": float(np.median(found["kl"][:, resolved])),
            f"{prefix}unseen_kl_mean": float(found["kl"][:, unseen].mean()),
            f"{prefix}cdf_error_max": float(found["cdf_error"].max()),
            f"{prefix}tail_error_median": float(np.median(tail)),
            f"{prefix}tail_error_p95": float(np.quantile(tail, 0.95)),
            f"{prefix}finite_share": float(np.isfinite(found["kl"]).mean()),
        }
    return scores


def _trained(run: Path, index: int) -> Trained:
    group = zarr.open_group(ensemble_path(run), mode="r")
    measures = {name: _array(group, name)[index] for name in MEASURES}
    path = Member(run, "train", index).directory / "metrics.jsonl"
    return Trained(index, [dict(row) for row in read_metrics(path)], measures)


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]


def _reference(config: GmmConfig, test: TestSet) -> Measures:
    fits = [
        solve(test.gridded, components, _REFERENCE_STEPS)
        for components in config.evaluation.components
    ]
    found = [test.measured(fit) for fit in fits]
    return {name: torch.stack([each[name] for each in found]).numpy() for name in MEASURES}


def _of(test: TestSet, names: Sequence[str]) -> Array:
    """Which of the test densities are of these families."""
    wanted = torch.tensor([name in names for name in test.names])
    return np.asarray(wanted[test.drawn.family])


def _section(
    config: GmmConfig,
    run: Path,
    scores: Mapping[str, float],
    members: Sequence[Trained],
    best: Trained,
    test: TestSet,
    reference: Measures,
) -> Section:
    return Section(
        "Gaussian mixtures, fitted by a network",
        f"{len(members)} networks; the best by validation is member {best.index}, exported to "
        f"{export_path(run).relative_to(run)}. {len(test.sd)} test densities of "
        f"{len(test.names)} families, {len(HELD_OUT)} of which no network has seen.",
        _facts(scores),
        _pictures(config, run, members, best, test, reference),
        [_families_table(test, best, reference), _members_table(config, members)],
    )


def _facts(scores: Mapping[str, float]) -> list[Fact]:
    def fact(label: str, name: str, digits: int = 3) -> Fact:
        other = f"{_REFERENCE}: {scores[f'em200_{name}']:.{digits}g}"
        return Fact(label, float(f"{scores[name]:.{digits}g}"), other)

    return [
        fact("Mean KL, resolved densities", "resolved_kl_mean"),
        fact("Median KL, resolved densities", "resolved_kl_median"),
        fact("Mean KL, families never seen", "unseen_kl_mean"),
        fact("3 sigma quantile of maxima, median error in sd", "tail_error_median"),
        fact("The same, 95th percentile", "tail_error_p95"),
        fact("Worst error of the CDF", "cdf_error_max"),
    ]


def _families_table(test: TestSet, best: Trained, reference: Measures) -> Table:
    rows = []
    for name in test.names:
        mine = _of(test, [name])
        kls = [found["kl"][:, mine] for found in (best.measures, reference)]
        tails = [np.abs(found["tail_error"][:, mine]) for found in (best.measures, reference)]
        numbers = [*(kl.mean() for kl in kls), *(np.median(kl) for kl in kls)]
        numbers += [np.median(tail) for tail in tails]
        seen = "never" if FAMILIES[name].held_out else "trained on"
        rows.append([name.replace("_", " "), seen, *(float(f"{n:.3g}") for n in numbers)])
    columns = ["Family", "Seen", "Mean KL", "of EM-200", "Median KL", "of EM-200"]
    columns += ["3 sigma error, sd", "of EM-200"]
    caption = "The best member against 200 steps of binned EM, over all numbers of components."
    return Table("Families", columns, rows, caption)


def _members_table(config: GmmConfig, members: Sequence[Trained]) -> Table:
    rows = []
    for found in members:
        point = point_of(config, found.index)
        last = [row for row in found.rows if "validation" in row][-1]
        told = ", ".join(f"{path}={value}" for path, value in point.items()) or "as configured"
        kl = float(f"{found.measures['kl'].mean():.3g}")
        health = [last.get(name) for name in ("floor_ratio", "order_violations", "skipped")]
        validation = float(f"{found.validation:.3g}")
        rows.append([found.index, told, seed_number(config, found.index), validation, kl, *health])
    columns = ["Member", "Point", "Seed", "Validation KL", "Test KL"]
    columns += ["Sigmas at the floor", "Order violations", "Skipped steps"]
    return Table("Members", columns, rows)


def _pictures(
    config: GmmConfig,
    run: Path,
    members: Sequence[Trained],
    best: Trained,
    test: TestSet,
    reference: Measures,
) -> list[Picture]:
    histories = {f"member {found.index}": found.rows for found in members}
    maxima = _of(test, MAXIMA)
    tails = {"refiner": best.measures["tail_error"][:, maxima].ravel()}
    tails[_REFERENCE] = reference["tail_error"][:, maxima].ravel()
    cdfs = {"refiner": best.measures["cdf_error"].ravel()}
    cdfs[_REFERENCE] = reference["cdf_error"].ravel()
    goals = {0.005: "goal, median", 0.05: "goal, p95"}
    drawn = {
        "fits": (
            fit_panels(_fitted(config, run, best.index, test)),
            "Densities, the mixtures fitted to them with their components, and under each the "
            "error of its distribution function.",
            "Panels of densities with fitted mixtures, and their CDF errors.",
        ),
        "cdf": (
            error_curves(cdfs, "greatest CDF error at the cell edges", {0.03: "bound"}),
            "Greatest error of the distribution function, over all test densities.",
            "Share of densities against CDF error, for the refiner and for EM.",
        ),
        "tail": (
            error_curves(tails, "error of the 3 sigma quantile, sd", goals),
            "Error of the 3 sigma quantile of maxima of correlated Gaussians.",
            "Share of densities against quantile error, for the refiner and for EM.",
        ),
        "losses": (
            loss_curves({n: _curve(rows) for n, rows in histories.items()}, ylabel="divergence"),
            "Loss and validation of every member.",
            "Loss curves of the members over the training steps.",
        ),
        "health": (
            health_panels(histories),
            "Signs of collapse: least, median and greatest sigma; greatest and mean peak of the "
            "fitted density; share of sigmas at their floor.",
            "Three panels over the epochs, one line a member.",
        ),
    }
    return [_picture(run, name, *parts) for name, parts in drawn.items()]


def _picture(run: Path, name: str, figure: Any, caption: str, alt: str) -> Picture:
    path = run / "report" / f"{name}.png"
    save_png(figure, path)
    return Picture(caption, alt, path)


def _curve(rows: Sequence[Mapping[str, Any]]) -> LossCurve:
    ended = [row for row in rows if "loss" in row]  # the others are events
    validated = [row for row in ended if "validation" in row]
    return LossCurve(
        [row["step"] for row in ended],
        [row["loss"] for row in ended],
        [row["step"] for row in validated],
        [row["validation"] for row in validated],
    )


def _fitted(config: GmmConfig, run: Path, member: int, test: TestSet) -> list[Fitted]:
    """One density of each of some families with its mixture, of the middle number of components.

    Families that nobody has seen come first, then maxima, then the others.
    """
    sizes = config.evaluation.components
    group = zarr.open_group(ensemble_path(run), mode="r")
    size = len(sizes) // 2
    stored = [_array(group, name)[member, size] for name in Mixture._fields]
    order = sorted(test.names, key=lambda name: (name not in MAXIMA, name not in HELD_OUT))
    fits = []
    for name in order[: config.evaluation.pictures]:
        place = int(_of(test, [name]).argmax())
        parts = (torch.from_numpy(values[place, : sizes[size]])[None] for values in stored)
        masses = test.gridded.masses[place]
        fits.append(Fitted(name, test.gridded.edges[0], masses, Mixture(*parts)))
    return fits
