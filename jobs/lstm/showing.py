"""What the LSTM job shows of a run: facts, tables and pictures of its page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jobs.collecting import save_picture, stored
from jobs.lstm.collected import Collected, Tested, point_name
from jobs.lstm.evaluation import METHODS, SHARES_OF
from jobs.lstm.pairs import MARGIN, Comparison
from jobs.lstm.pictures import (
    Series,
    attention_map,
    label,
    scatter_panels,
    series_panels,
    skill_panels,
)
from jobs.lstm.references import compare
from pipelines.figures import LossCurve, loss_curves
from pipelines.fluxes.scores import SCORES, Interval, over_seeds, skill
from pipelines.report import Fact, Picture, Section, Table

#: Kinds of split, in words.
KINDS = {
    "site": "unseen sites",
    "time": "later years",
    "warm_site": "sites known for a while",
    "dates": "later days",
}


#: Where the fluxes are from that are predicted: simulated, or measured.
TRUTHS = {False: "process model", True: "tower"}

#: Days of a series that are drawn, the last ones: in more, no single one is to be seen.
_SHOWN_DAYS = 2 * 365


def section(
    found: Collected, scores: Mapping[str, float], comparisons: Sequence[Comparison] = ()
) -> Section:
    """The part of the page that is the job's own."""
    return Section(
        "LSTMs of carbon fluxes",
        f"{len(found.members)} networks, tested free-running over "
        f"{found.config.evaluation.horizon} days; for each split the one with the best validation "
        "is shown. Scores are medians over sites.",
        [_fact(kind, member.fluxes, scores) for kind, member in found.best.items()],
        list(_pictures(found)),
        list(_tables(found, comparisons)),
    )


def _fact(kind: str, fluxes: Sequence[str], scores: Mapping[str, float]) -> Fact:
    def line(prefix: str) -> str:
        return ", ".join(f"{label(f)} {scores[f'{prefix}_{f}_nse']:.3f}" for f in fluxes)

    return Fact(f"NSE on {KINDS[kind]}", line(kind), f"climatology: {line(f'{kind}_climatology')}")


def _tables(found: Collected, comparisons: Sequence[Comparison]) -> Iterator[Table]:
    yield _scores_table(found)
    yield _methods_table(found) if found.config.data.measured else _references_table(found)
    yield from _drift(found)
    yield from _comparisons_table(comparisons)
    yield _members_table(found)


def _scores_table(found: Collected) -> Table:
    """One row a point and flux, with intervals over seeds."""
    rows: list[list[object]] = []
    for point, members in found.by_point:
        name = point_name(point)
        for n, flux in enumerate(found.records.flux_names):
            nse = [member.spread("nse") for member in members]
            p10 = over_seeds([spread.p10[n] for spread in nse]).mean
            p90 = over_seeds([spread.p90[n] for spread in nse]).mean
            middle = [
                _interval(over_seeds([m.spread(score).median[n] for m in members]))
                for score in SCORES
            ]
            rows.append([name, label(flux), middle[0], _short(p10), _short(p90), *middle[1:]])
    columns = ["Point", "Flux", "NSE", "p10", "p90", "KGE", "RMSE", "Bias"]
    caption = (
        f"Median, 10th and 90th percentile over test sites: mean of {found.config.seeds} seeds, "
        "± half of its 95 % interval (Student). RMSE and bias in gC m⁻² d⁻¹."
    )
    return Table("Scores", columns, rows, caption, filtered="Flux")


def _references_table(found: Collected) -> Table:
    rows = []
    for kind, member in found.best.items():
        for method in METHODS[1:]:
            spread = member.spread("nse", method)
            for n, flux in enumerate(found.records.flux_names):
                numbers = [_short(float(part[n])) for part in spread]
                rows.append([KINDS[kind], method, label(flux), *numbers])
    caption = (
        "What a network must beat. Climatology is each site's own seasonal cycle, for sites "
        "without a training day that of the very record; persistence repeats the last day."
    )
    columns = ["Test on", "Reference", "Flux", "NSE", "p10", "p90"]
    return Table("References", columns, rows, caption, filtered="Flux")


def _comparisons_table(comparisons: Sequence[Comparison]) -> Iterator[Table]:
    rows = [
        [
            f"{each.first} − {each.second}",
            str(each.relation),
            each.pairs,
            each.identical,
            _interval(each.difference),
            "yes" if each.zero_inside else "no",
            str(each.verdict),
        ]
        for each in comparisons
    ]
    columns = ["Pair", "They are", "Pairs", "Identical", "Difference", "Zero inside", "So"]
    caption = (
        "Networks that share seed, split and all else but the variant; the difference is that of "
        "NSE (median over test sites, mean over fluxes), ± half of its 95 % interval over seeds. "
        f"Equivalent: the interval lies within ±{MARGIN}."
    )
    if rows:
        yield Table("Variants side by side", columns, rows, caption)


def _drift(found: Collected) -> Iterator[Table]:
    """Of the best member on unseen sites, where that was tested."""
    for kind, member in found.best.items():
        if drift := member.drift_size:
            rows = [
                [year + 1, *(_short(100 * float(part[year, n])) for n in (0, 1) for part in drift)]
                for year in range(len(drift.median))
            ]
            parts = [f"{part}, {label(f)}" for f in SHARES_OF for part in ("Median", "p10", "p90")]
            caption = (
                "Size of the error of NEP, summed since one free run began, as a percentage of the "
                f"GPP, and of the sizes of daily NEP, summed meanwhile: over {KINDS[kind]}."
            )
            yield Table("Drift of NEP", ["Year", *parts], rows, caption)


def _methods_table(found: Collected) -> Table:
    rows = [
        [KINDS[line.kind], line.method, line.hears, *map(_interval, line.nse)]
        for line in compare(found)
    ]
    caption = (
        "NSE, medians over sites, all on the same days; of several networks the mean, ± half of "
        "its 95 % interval over seeds (Student). Who hears the day before has an easier question."
    )
    fluxes = map(label, found.records.flux_names)
    return Table("Comparison", ["Test on", "Method", "Knows fluxes until", *fluxes], rows, caption)


def _members_table(found: Collected) -> Table:
    rows = []
    for member in found.members:
        name = point_name(member.point)
        seed = found.config.seed_number(member.index)
        nse = [_short(value) for value in member.spread("nse").median]
        drift = [_short(value) for value in member.annual_bias.values()]
        last = [row for row in member.rows if "loss" in row][-1]
        facts = [_short(member.mass_residual), member.parameters, _short(member.milliseconds)]
        validation = _short(member.validation)
        rows.append([member.index, name, seed, validation, *nse, *drift, *facts, last["skipped"]])
    nse_of = [f"NSE {label(flux)}" for flux in found.records.flux_names]
    columns = ["Member", "Point", "Seed", "Validation", *nse_of]
    columns += [f"{label(found.members[0].net)} bias", "p10", "p90"]
    columns += ["Mass residual", "Parameters", "ms a step", "Skipped"]
    caption = "The bias is that of a year, gC m⁻² a⁻¹, over sites; the residual is per day."
    return Table("Members", columns, rows, caption)


def _short(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def _interval(found: Interval) -> str:
    if not math.isfinite(found.half):
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} ± {found.half:.3f}"


def _pictures(found: Collected) -> Iterator[Picture]:
    for kind, member in found.best.items():
        yield from _of_split(found, kind, member)
    yield from _attention(found)
    curves = {f"member {member.index}": LossCurve.of(member.rows) for member in found.members}
    yield save_picture(
        found.run,
        "losses",
        loss_curves(curves, ylabel="squared error, deviations"),
        "Loss of every member, and of its free runs over validation windows.",
        "Loss curves of the members over the training steps.",
    )


def _of_split(found: Collected, kind: str, member: Tested) -> Iterator[Picture]:
    predicted = np.asarray(stored(found.run, "predictions", member.index), np.float64)
    observed = found.records.fluxes
    fluxes, truth = found.records.flux_names, TRUTHS[found.config.data.measured]
    where, name = KINDS[kind], point_name(member.point)
    yield save_picture(
        found.run,
        f"series-{kind}",
        series_panels(_series(found, member, predicted), fluxes, truth),
        f"Test on {where}, {name}: sites from well to badly predicted, by the NSE of "
        f"{label(member.net)}; at most the last two years.",
        f"Fluxes of sites over time, of the {truth} and of the network.",
    )
    known = (np.isfinite(predicted) & np.isfinite(observed)).all(axis=-1)
    yield save_picture(
        found.run,
        f"scatter-{kind}",
        scatter_panels(observed[known], predicted[known], fluxes, truth),
        f"Test on {where}, {name}: all test days of all test sites, gC m⁻² d⁻¹.",
        "Predicted against observed fluxes, one panel a flux.",
    )
    error = np.asarray(stored(found.run, "error_by_lead", member.index), np.float64)
    skills = {method: skill(error[0], error[n]) for n, method in enumerate(METHODS) if n}
    yield save_picture(
        found.run,
        f"skill-{kind}",
        skill_panels(skills, fluxes),
        f"Test on {where}, {name}: share of the reference's squared error that is saved.",
        "Skill against climatology and persistence over the days of a forecast.",
    )


def _series(found: Collected, member: Tested, predicted: Any) -> list[Series]:
    """Sites at even steps of their rank, with the last of the days that are predicted."""
    nse = member.scores[0, 0, :, member.fluxes.index(member.net)]
    ranked = np.argsort(-nse)[: np.isfinite(nse).sum()]
    most = min(found.config.evaluation.sites, len(ranked))
    places = np.linspace(0.1, 0.9, most) if most > 2 else np.linspace(0, 1, most)
    series = []
    for site in ranked[np.round(places * (len(ranked) - 1)).astype(int)]:
        (days,) = np.isfinite(predicted[site]).any(axis=-1).nonzero()
        end = int(days[-1]) + 1
        shown = slice(max(int(days[0]), end - _SHOWN_DAYS), end)
        series.append(
            Series(
                found.records.sites[site],
                found.records.days[shown],
                found.records.fluxes[site, shown],
                predicted[site, shown],
            )
        )
    return series


def _attention(found: Collected) -> Iterator[Picture]:
    """Of the best member that attends, if there is one."""
    for member in sorted(found.members, key=lambda m: m.validation):
        weights = np.asarray(stored(found.run, "attention", member.index), np.float64)
        if np.isfinite(weights).all():
            name = point_name(member.point)
            yield save_picture(
                found.run,
                "attention",
                attention_map(weights, found.records.static_names, found.config.windows.context),
                f"{name}: what it attends to in the first test window.",
                "Attention weights of static features over the days of a window.",
            )
            return
