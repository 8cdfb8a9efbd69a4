"""What is in the store of a run, and what its members agree on."""

from pipelines.ensemble import EnsembleError, Layout, read_layout
from pipelines.report.agreement import agreement_html
from pipelines.report.content import Fact, Section, Table
from pipelines.report.elements import paragraph, section_html, table_html
from pipelines.report.state import RunState
from pipelines.statistics import run_summary


def ensemble_html(state: RunState) -> str | None:
    """What the store holds and the statistics over its members; None where there is no store.

    What cannot be read is told, and the rest of the page is shown.
    """
    path = state.run / "ensemble.zarr"
    if not (path / "zarr.json").exists():
        return None
    try:
        layout = read_layout(path)
    except EnsembleError as error:
        return paragraph(str(error))
    return f"{_held(layout, state)}\n{_agreement(state)}"


def evaluation_html(state: RunState) -> str | None:
    """What the workload measured; None where it left no ``report/evaluation.json``."""
    if not state.scores:
        return None
    rows = [[name.replace("_", " "), value] for name, value in state.scores.items()]
    return table_html(Table("Evaluation", ["By the workload", "Value"], rows))


def _agreement(state: RunState) -> str:
    try:
        found = run_summary(state.run)
    except EnsembleError as error:
        return paragraph(f"There are no statistics: {error}")
    if found is None:
        return paragraph("Statistics over members follow when 'yaoki collect' has sealed them.")
    return agreement_html(found)


def _held(layout: Layout, state: RunState) -> str:
    committed = sum(layout.commit(member).exists() for member in range(layout.members))
    seal = "sealed" if layout.manifest.exists() else "not sealed yet"
    facts = [Fact("Members committed", f"{committed} of {layout.members}", seal)]
    columns = ["Array", "Shape", "Dimensions", "Type", "Units", "What it is"]
    rows: list[list[object]] = [
        [
            spec.name,
            " × ".join(map(str, (layout.members, *spec.shape))),
            ", ".join(("member", *spec.dims)),
            spec.dtype,
            spec.units,
            spec.long_name,
        ]
        for spec in layout.arrays.values()
    ]
    tables = [Table("Arrays", columns, rows, "'yaoki verify' checks every byte of them.")]
    return section_html(Section("Ensemble", "", facts, (), tables))
