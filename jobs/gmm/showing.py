"""What the mixture job shows of a run: facts, tables and pictures of its page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from jobs.collecting import save_picture, stored
from jobs.gmm.collected import EM_STEPS, Collected
from jobs.gmm.export import export_path
from jobs.gmm.pictures import Fitted, error_curves, fit_panels, health_panels
from kernels.gmm import Mixture
from kernels.gmm.families import FAMILIES, HELD_OUT, MAXIMA
from pipelines.figures import LossCurve, loss_curves
from pipelines.report import Fact, Picture, Section, Table

CLASSICAL = f"EM, {EM_STEPS} steps"


def section(found: Collected, scores: Mapping[str, float]) -> Section:
    """The part of the page that is the job's own."""
    test = found.test
    return Section(
        "Gaussian mixtures, fitted by a network",
        f"{len(found.members)} networks; the best by validation is member {found.best.index}, "
        f"exported to {export_path(found.run).relative_to(found.run)}. {len(test.sd)} test "
        f"densities of {len(test.names)} families, {len(HELD_OUT)} of which none has seen.",
        _facts(scores),
        _pictures(found),
        [_families_table(found), _members_table(found)],
    )


def _facts(scores: Mapping[str, float]) -> list[Fact]:
    labels = {
        "resolved_kl_mean": "Mean KL, resolved densities",
        "resolved_kl_median": "Median KL, resolved densities",
        "unseen_kl_mean": "Mean KL, families never seen",
        "tail_error_median": "3 sigma quantile of maxima, median error in sd",
        "tail_error_p95": "The same, 95th percentile",
        "cdf_error_max": "Worst error of the CDF",
    }
    return [
        Fact(label, _short(scores[name]), f"{CLASSICAL}: {scores[f'em200_{name}']:.3g}")
        for name, label in labels.items()
    ]


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _families_table(found: Collected) -> Table:
    rows = []
    for name in found.test.names:
        mine = found.test.of(name)
        methods = (found.best.measures, found.classical)
        kls = [measures["kl"][:, mine] for measures in methods]
        tails = [np.abs(measures["tail_error"][:, mine]) for measures in methods]
        numbers = [*map(np.mean, kls), *map(np.median, kls), *map(np.median, tails)]
        seen = "never" if FAMILIES[name].held_out else "trained on"
        rows.append([name.replace("_", " "), seen, *(_short(float(n)) for n in numbers)])
    columns = ["Family", "Seen", "Mean KL", "of EM", "Median KL", "of EM", "3 sigma, sd", "of EM"]
    caption = f"The best member against {CLASSICAL}, over all numbers of components."
    return Table("Families", columns, rows, caption)


def _members_table(found: Collected) -> Table:
    rows = []
    for member in found.members:
        point = found.config.point_of(member.index)
        told = ", ".join(f"{path}={value}" for path, value in point.items()) or "as configured"
        seed = found.config.seed_number(member.index)
        kl = float(member.measures["kl"].mean())
        last = [row for row in member.rows if "validation" in row][-1]
        health = [last[name] for name in ("floor_ratio", "order_violations", "skipped")]
        numbers = [_short(member.validation), _short(kl)]
        rows.append([member.index, told, seed, *numbers, *health])
    columns = ["Member", "Point", "Seed", "Validation KL", "Test KL"]
    columns += ["Sigmas at the floor", "Order violations", "Skipped steps"]
    return Table("Members", columns, rows)


def _pictures(found: Collected) -> list[Picture]:
    histories = {f"member {member.index}": member.rows for member in found.members}
    curves = {name: LossCurve.of(rows) for name, rows in histories.items()}
    everything = np.ones(len(found.test.sd), bool)
    cdfs = _errors(found, "cdf_error", everything)
    tails = _errors(found, "tail_error", found.test.of(*MAXIMA))
    goals = {0.005: "goal, median", 0.05: "goal, p95"}
    drawn = {
        "fits": (
            fit_panels(_fitted(found)),
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
            loss_curves(curves, ylabel="supervised loss, validation KL"),
            "Loss of every member, and the divergence that it is validated by.",
            "Loss curves of the members over the training steps.",
        ),
        "health": (
            health_panels(histories),
            "Signs of collapse: least, median and greatest sigma; greatest and mean peak of the "
            "fitted density; share of sigmas at their floor.",
            "Three panels over the epochs, one color a member.",
        ),
    }
    return [save_picture(found.run, name, *parts) for name, parts in drawn.items()]


def _errors(found: Collected, measure: str, which: Any) -> dict[str, Any]:
    refiner, classical = found.best.measures[measure], found.classical[measure]
    return {"refiner": refiner[:, which].ravel(), CLASSICAL: classical[:, which].ravel()}


def _fitted(found: Collected) -> list[Fitted]:
    """The first density of some families with its mixture, of the middle number of components.

    Maxima come first, then other families that nobody has seen, then the rest.
    """
    test, sizes = found.test, found.config.evaluation.components
    size = len(sizes) // 2
    arrays = [stored(found.run, name, found.best.index)[size] for name in Mixture._fields]
    order = sorted(test.names, key=lambda name: (name not in MAXIMA, name not in HELD_OUT))
    fits = []
    for name in order[: found.config.evaluation.pictures]:
        place = int(test.of(name).argmax())
        parts = (torch.from_numpy(values[place, : sizes[size]])[None] for values in arrays)
        masses = test.gridded.masses[place]
        fits.append(Fitted(name, test.gridded.edges[0], masses, Mixture(*parts)))
    return fits
