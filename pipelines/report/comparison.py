"""Two runs side by side: what was asked differently, and what came of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.accounts.usage import Totals
from cluster.scheduler.quantities import duration
from cluster.stage import load_stages
from pipelines.ensemble import EnsembleError
from pipelines.report.charts import Group, curves_html
from pipelines.report.content import Measured, Picture, Section, Table
from pipelines.report.curves import Curves, stage_curves
from pipelines.report.elements import section_html, table_html
from pipelines.report.loose import shown_sections
from pipelines.report.page import Block, write_page
from pipelines.report.state import RunState, flat
from pipelines.statistics import run_summary

#: Of each array.
_STATISTICS = ("spread_rms", "rmse", "crps", "spread_error_ratio")

Pair = tuple[object, object]


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Args:
        first: The one.
        second: The other.
    """

    first: RunState
    second: RunState

    @cached_property
    def configuration(self) -> dict[str, Pair]:
        """Keys of the plans whose values differ; None where a run has no such key, or no plan."""
        if self.first.plan is None or self.second.plan is None:
            jobs = [state.plan and state.plan["job"] for state in (self.first, self.second)]
            return {"job": (jobs[0], jobs[1])} if jobs != [None, None] else {}
        return {k: pair for k, pair in self._pairs(_asked).items() if pair[0] != pair[1]}

    @cached_property
    def scores(self) -> dict[str, Pair]:
        """What ``collect`` measured of either, and the statistics over members of each array."""
        return self._pairs(_measured)

    @cached_property
    def accounts(self) -> dict[str, Pair]:
        """What the members were given and used, all stages together. Seconds, hours, shares."""
        return self._pairs(_spent)

    def _pairs(self, values_of: Callable[[RunState], dict[str, Any]]) -> dict[str, Pair]:
        a, b = values_of(self.first), values_of(self.second)
        return {
            key: (a.get(key), b.get(key))
            for key in a | b
            if (a.get(key), b.get(key)) != (None, None)
        }


def _asked(state: RunState) -> dict[str, Any]:
    plan = state.plan or {}
    return {
        **{key: plan.get(key) for key in ("job", "yaoki")},
        **flat({"git": plan.get("git") or {}}),
        **flat(plan.get("config", {})),
    }


def _measured(state: RunState) -> dict[str, Any]:
    try:
        found = run_summary(state.run)
    except EnsembleError:  # there is no ensemble; of one that is damaged its own page says so
        found = None
    arrays: dict[str, Any] = found["arrays"] if found else {}
    statistics = {
        f"{name} {score.replace('_', ' ')}": array[score]
        for name, array in arrays.items()
        for score in _STATISTICS
        if array.get(score) is not None
    }
    return dict(state.scores) | statistics


def _spent(state: RunState) -> dict[str, Any]:
    stages = state.usage.stages
    totals = Totals([a for stage in stages for a in stage.totals.attempts])
    return {
        "members": sum(len(stage.members) for stage in stages),
        "finished": sum(member.finished for stage in stages for member in stage.members),
        "attempts": len(totals.attempts),
        "allocated": totals.parts.allocated,
        "goodput": totals.parts.goodput,
        "core_hours": totals.core_hours,
        "gpu_hours": totals.gpu_hours,
        "peak_mib": totals.peak,
        **{f"wasted: {reason}": seconds for reason, seconds in totals.waste.items()},
        **{f"ended by {cause}": count for cause, count in totals.causes.items()},
    }


def write_comparison(target: Path, both: Comparison) -> None:
    """Write the page of a comparison, with the losses of both in one picture.

    Raises:
        RunError: A plan or a section of a workload cannot be read.
        MetricsError: The log of a member is none.
        OSError: The page cannot be written.
    """
    names = _names(both)
    lead = f"First: {both.first.run}. Second: {both.second.run}."
    write_page(target, f"{names[0]} and {names[1]}", lead, list(_blocks(both, names)))


def _names(both: Comparison) -> tuple[str, str]:
    """What tells the runs apart: a copy elsewhere has the same last name."""
    a, b = both.first.run, both.second.run
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def _blocks(both: Comparison, names: tuple[str, str]) -> Iterator[Block]:
    asked = _table("Configuration", both.configuration, names)
    same = "<p>Both were asked for the same.</p>"
    yield Block("configuration", "What differs", asked if both.configuration else same)
    if both.scores:
        yield Block("scores", "Statistics", _table("Statistics", both.scores, names))
    yield Block("accounts", "Goodput and waste", _table("Accounts", both.accounts, names))
    charts = "\n".join(_charts(both, names))
    if charts:
        yield Block("losses", "Losses", f'<div class="gallery">{charts}</div>')
    pictures = list(_pictures(both, names))
    if pictures:
        yield Block("figures", "Figures", section_html(Section("Figures", pictures=pictures)))


def _table(title: str, pairs: dict[str, Pair], names: Sequence[str]) -> str:
    rows = [[key, *(_cell(key, value) for value in pair)] for key, pair in pairs.items()]
    return table_html(Table(title, [title, *names], rows))


def _cell(key: str, value: Any) -> object:
    if value is not None and (key == "allocated" or key.startswith("wasted")):
        return Measured(value, duration(value))
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _charts(both: Comparison, names: tuple[str, str]) -> Iterator[str]:
    found = [_curves(both.first), _curves(both.second)]
    for n, title in enumerate(found[0] | found[1]):
        sides = zip(names, found, strict=True)
        groups = [Group(name, curves[title]) for name, curves in sides if title in curves]
        yield curves_html(title, groups, f"curves-{n}")


def _curves(state: RunState) -> dict[str, Curves]:
    stages = load_stages(state.run)
    return {f"{s.name}: {c.metric}": c for s in stages for c in stage_curves(s)}


def _pictures(both: Comparison, names: tuple[str, str]) -> Iterator[Picture]:
    """The workloads' pictures, those of the same file beside each other."""
    sides = [
        {p.png.name: p for section in shown_sections(state.run) for p in section.pictures}
        for state in (both.first, both.second)
    ]
    for file in sides[0] | sides[1]:
        for name, pictures in zip(names, sides, strict=True):
            if file in pictures:
                found = pictures[file]
                yield replace(found, caption=f"{name}: {found.caption}")
