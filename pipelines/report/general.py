"""How far a run is, its members, and what they took."""

from collections import Counter
from html import escape
from pathlib import Path

from cluster.accounts.usage import MemberUsage, StageUsage, Totals
from cluster.scheduler.quantities import duration
from cluster.status import ENDED_SHORT, OPEN, MemberStatus, State
from pipelines.report.content import Fact, Link, Measured, Section, Table
from pipelines.report.elements import details, section_html, table_html
from pipelines.report.state import RunState, clock
from pipelines.report.timeline import legend, parts_bar

_MARKS = {State.FINISHED: "✓ ", State.RUNNING: "▶ "} | dict.fromkeys(ENDED_SHORT, "✗ ")


def summary_html(state: RunState) -> str:
    """How far the run is and what it took, in a few cards."""
    totals = Totals([a for stage in state.usage.stages for a in stage.totals.attempts])
    done = sum(member.finished for stage in state.usage.stages for member in stage.members)
    of = sum(len(stage.members) for stage in state.usage.stages)
    counts = Counter(str(member.state) for member in state.members)
    others = ", ".join(f"{n} {name}" for name, n in counts.items() if name != State.FINISHED)
    causes = ", ".join(f"{n} {cause}" for cause, n in totals.causes.most_common())
    facts = [Fact("Members finished", f"{done} of {of}", others)]
    if totals.attempts:
        waste = next(iter(totals.waste.items()), None)
        largest = "" if waste is None else f"the most of the rest: {waste[0]}, {duration(waste[1])}"
        facts += [
            Fact("Attempts", len(totals.attempts), causes and f"ended early: {causes}"),
            Fact("Goodput", share(totals.parts.goodput), largest),
            Fact("Core-hours", totals.core_hours, f"{duration(totals.parts.allocated)} in all"),
        ]
    if totals.gpu_hours:
        facts.append(Fact("GPU-hours", totals.gpu_hours))
    lead = f"Where the members stand is not known: {state.problem}" if state.problem else ""
    return section_html(Section("Summary", lead, facts))


def share(value: float | None) -> str | None:
    """A share in percent."""
    return None if value is None else f"{value:.0%}"


def headline(state: RunState) -> str:
    """When the page was made, and of what."""
    going = any(member.state in OPEN for member in state.members)
    what = f"Job {state.plan['job']}" if state.plan else "Members of an executor"
    return f"{what}, {'at work' if going else 'as it stood'} at {clock(state.now)}."


def members_html(state: RunState, page: Path) -> str:
    """A row for each member, with links to its directory and its last log."""
    known = {(member.stage, member.index): member for member in state.members}
    rows = [
        _member_row(state, page, member, known.get((member.stage, member.index)))
        for stage in state.usage.stages
        for member in stage.members
    ]
    columns = ["Member", "State", "Attempts", "Steps", "Ended early by", "Elapsed", "Goodput"]
    columns += ["Wasted", "Log", "Detail"]
    told = [n for n, _ in enumerate(columns) if n < 2 or any(row[n] is not None for row in rows)]
    shown = [[row[n] for n in told] for row in rows]
    return table_html(Table("Members", [columns[n] for n in told], shown, filtered="State"))


def _member_row(
    state: RunState, page: Path, member: MemberUsage, status: MemberStatus | None
) -> list[object]:
    totals, index = member.totals, f"{member.index:04d}"
    place = ("members", member.stage, index)
    causes = ", ".join(f"{n} {cause}" for cause, n in totals.causes.most_common())
    row: list[object] = [Link(member.name, state.link(page, *place).target)]
    row.append(f"{_MARKS.get(status.state, '')}{status.state}" if status else None)
    row.append(len(member.attempts))
    row.append(f"{status.step} of {status.of}" if status and status.of else None)
    row += [causes or None, *_spent(totals)]
    log = f"{member.attempts[-1].number:04d}.log" if member.attempts else ""
    there = bool(log) and state.run.joinpath(*place, "logs", log).exists()
    row.append(Link(log, state.link(page, *place, "logs", log).target) if there else None)
    return [*row, status.detail.splitlines()[0] if status and status.detail else None]


def _spent(totals: Totals) -> list[object]:
    parts = totals.parts
    if not totals.attempts:
        return [None] * 3
    wasted = parts.allocated - parts.useful
    goodput = None if parts.goodput is None else Measured(parts.goodput, f"{parts.goodput:.0%}")
    return [
        Measured(parts.allocated, duration(parts.allocated)),
        goodput,
        Measured(wasted, duration(wasted)),
    ]


def accounts_html(state: RunState) -> str:
    """Goodput and waste of every stage, and what to ask for next time."""
    stages = [stage for stage in state.usage.stages if stage.totals.attempts]
    columns = ["Stage", "Members", "Attempts", "Elapsed", "Goodput", "Wasted", "Core-hours"]
    columns += ["GPU-hours", "Memory used (MiB)", "given (MiB)", "CPU", "Waited"]
    html = [table_html(Table("Time and memory", columns, [_stage_row(s) for s in stages]))]
    bars = [(stage.stage.name, stage.totals.parts) for stage in stages]
    drawn = "".join(f"<h3>{escape(name)}</h3>{parts_bar(parts, name)}" for name, parts in bars)
    html.append(f'<div class="sheet chart bars">{legend()}{drawn}</div>')
    reasons = [
        [f"{stage.stage.name}: {reason}", Measured(seconds, duration(seconds))]
        for stage in stages
        for reason, seconds in stage.totals.waste.items()
    ]
    html.append(details("What was not useful", table_html(Table("Waste", ["Of", "Time"], reasons))))
    if state.advice:
        lines = "".join(f"<li>{escape(line)}</li>" for line in state.advice)
        html.append(f'<h3>Next time</h3><ul class="advice">{lines}</ul>')
    return "\n".join(html)


def _stage_row(stage: StageUsage) -> list[object]:
    totals = stage.totals
    return [
        stage.stage.name,
        len(stage.members),
        len(totals.attempts),
        *_spent(totals),
        totals.core_hours,
        totals.gpu_hours,
        totals.peak,
        totals.memory,
        share(totals.cpu_efficiency),
        Measured(totals.waited, duration(totals.waited)),
    ]
