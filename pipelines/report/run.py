"""The page of a run, at any time: what its workload shows of it, and what every run has."""

from collections.abc import Iterator
from pathlib import Path

from cluster.stage import load_stages
from pipelines.report.charts import Group, curves_html
from pipelines.report.curves import stage_curves
from pipelines.report.elements import paragraph, section_html
from pipelines.report.ensemble import ensemble_html, evaluation_html
from pipelines.report.general import (
    accounts_html,
    headline,
    members_html,
    summary_html,
)
from pipelines.report.loose import shown_sections
from pipelines.report.origin import files_html, origin_html
from pipelines.report.page import Block, write_page
from pipelines.report.state import RunState
from pipelines.report.timeline import timeline_html
from pipelines.tracking import MetricsError


def page_of(run: Path) -> Path:
    """Where the page of a run lies unless asked otherwise."""
    return run / "report" / "index.html"


def write_run_page(
    state: RunState, target: Path | None = None, refresh: float | None = None
) -> Path:
    """Compose the page of a run and write it, whole at any time.

    Args:
        state: What is known of the run.
        target: The file; default: ``report/index.html`` of the run.
        refresh: Seconds after which a browser is to load it again, or None for never.

    Returns:
        Path of the page.

    Raises:
        RunError: The plan or a section of the workload cannot be read.
        OSError: The page cannot be written.
    """
    target = page_of(state.run) if target is None else target
    footer = f"'yaoki report {state.run.name}' writes this page anew."
    blocks = list(_blocks(state, target))
    write_page(target, state.run.name, headline(state), blocks, refresh, footer)
    return target


def _blocks(state: RunState, page: Path) -> Iterator[Block]:
    yield Block("summary", "Summary", summary_html(state))
    for n, section in enumerate(shown_sections(state.run)):
        yield Block(f"workload-{n}", section.title, section_html(section))
    yield Block("timeline", "Timeline", _timeline(state))
    yield Block("members", "Members", members_html(state, page))
    losses = _losses(state)
    if losses:
        yield Block("losses", "Losses", losses)
    if any(stage.totals.attempts for stage in state.usage.stages):
        yield Block("accounts", "Goodput and waste", accounts_html(state))
    ensemble, evaluation = ensemble_html(state), evaluation_html(state)
    if evaluation is not None:
        yield Block("evaluation", "Evaluation", evaluation)
    if ensemble is not None:
        yield Block("ensemble", "Ensemble", ensemble)
    yield Block("origin", "What ran", origin_html(state))
    yield Block("files", "Files", files_html(state, page))


def _timeline(state: RunState) -> str:
    return timeline_html([member for stage in state.usage.stages for member in stage.members])


def _losses(state: RunState) -> str:
    """The curves of every stage; of one whose logs cannot be read, why."""
    charts: list[str] = []
    problems = ""
    for stage in load_stages(state.run):
        try:
            found = stage_curves(stage)
        except MetricsError as error:
            problems += paragraph(str(error))
            continue
        for curves in found:
            title, group = f"{stage.name}: {curves.metric}", Group(stage.name, curves)
            charts.append(curves_html(title, [group], f"curves-{len(charts)}"))
    return problems + (f'<div class="gallery">{"".join(charts)}</div>' if charts else "")
