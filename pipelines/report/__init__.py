"""The page of a run and of two side by side: one HTML file each, which loads nothing."""

from pipelines.report.comparison import Comparison, write_comparison
from pipelines.report.content import Fact, Link, Measured, Picture, Section, Table
from pipelines.report.run import page_of, write_run_page
from pipelines.report.state import RunState
from pipelines.report.stored import load_sections, save_section

__all__ = [
    "Comparison",
    "Fact",
    "Link",
    "Measured",
    "Picture",
    "RunState",
    "Section",
    "Table",
    "load_sections",
    "page_of",
    "save_section",
    "write_comparison",
    "write_run_page",
]
