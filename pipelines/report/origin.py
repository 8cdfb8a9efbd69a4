"""Where a run comes from: plan, git, environment, configuration; and where all of it lies."""

from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from cluster.stage import load_stages
from pipelines.ensemble import EnsembleError, read_commit, read_layout
from pipelines.report.content import Table
from pipelines.report.elements import details, paragraph, table_html
from pipelines.report.state import RunState, clock, flat


def origin_html(state: RunState) -> str:
    """Plan, git, environment: what ran, where, and made of what."""
    rows = [["Directory", str(state.run)], *_planned(state), *_environment(state)]
    html = [table_html(Table("Origin", ["What", "Which"], rows))]
    if state.plan:
        columns = ["Stage", "Function", "Members", "Waits for", "CPUs", "GPUs", "Memory", "Time"]
        stages = [_planned_stage(stage) for stage in state.plan.get("stages", [])]
        html += ["<h3>Stages</h3>", table_html(Table("Stages", columns, stages))]
        values = [[key, _plain(value)] for key, value in flat(state.plan["config"]).items()]
        table = table_html(Table("Configuration", ["Key", "Value"], values))
        html.append(details("Configuration", table))
    return "\n".join(html)


def _planned(state: RunState) -> Iterator[list[str]]:
    if state.plan is None:
        return
    git = state.plan.get("git") or {}
    dirty = ", with changes beside it" if git.get("dirty") else ""
    yield ["Job", str(state.plan["job"])]
    yield ["Plan", str(state.plan["digest"])]
    yield ["Git revision", f"{git.get('revision', 'unknown')}{dirty}"]
    yield ["yaoki", str(state.plan.get("yaoki", "unknown"))]


def _environment(state: RunState) -> Iterator[list[str]]:
    started = [a.started for s in state.usage.stages for a in s.totals.attempts]
    if started:
        yield ["First start", clock(min(started))]
    readings = [reading for stage in load_stages(state.run) for _, reading in stage.readings()]
    records = [record for reading in readings for record in reading.attempts()]
    hosts = Counter(str(record.where.get("host", "unknown")) for record in records)
    if hosts:
        yield ["Attempts by host", ", ".join(f"{host}: {n}" for host, n in hosts.most_common())]
    for package, version in _versions(state.run).items():
        yield [f"Version of {package}", str(version)]


def _versions(run: Path) -> dict[str, Any]:
    """Versions of the packages that the first member with a commit ran with."""
    path = run / "ensemble.zarr"
    try:
        members = range(read_layout(path).members)
        commits = (read_commit(path, member) for member in members)
        first = next((commit for commit in commits if commit is not None), None)
    except EnsembleError:
        return {}
    return dict(first.provenance.get("versions", {})) if first else {}


def _planned_stage(stage: dict[str, Any]) -> list[object]:
    asked = stage.get("resources", {})
    return [
        *(stage.get(key) for key in ("name", "function", "members", "wait")),
        *(asked.get(key) for key in ("cpus", "gpus", "memory", "time")),
    ]


def _plain(value: Any) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def files_html(state: RunState, page: Path) -> str:
    """Links to everything in the run directory."""
    names = sorted(p.name for p in state.run.iterdir() if not p.name.startswith("."))
    items = "".join(
        f'<li><a href="{escape(link.target)}"><code>{escape(link.text)}</code></a></li>'
        for link in (state.link(page, name) for name in names)
    )
    return f"{paragraph('Links work where the page lies in its run.')}<ul>{items}</ul>"
