"""What all figures share: colors, axes, and how they become files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cluster.records.files import write_atomic

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5D4E8C", "#000000")
INK, MUTED, GRID, UNSEEN = "#1f2430", "#5b6270", "#e3e6eb", "#c9ccd1"


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """Render a figure; equal figures give equal bytes, for neither time nor version is stored."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as a PNG file that is whole at any time."""
    write_atomic(path, png_bytes(figure, dpi))


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def finish_axes(ax: Axes, xlabel: str, ylabel: str) -> None:
    ax.set_xlabel(xlabel, fontsize=10, color=INK)
    ax.set_ylabel(ylabel, fontsize=10, color=INK)
    ax.tick_params(which="both", labelsize=9, color=MUTED, labelcolor=MUTED)
    ax.grid(True, which="major", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for name, side in ax.spines.items():
        side.set(visible=name in ("left", "bottom"), color=MUTED, linewidth=0.8)


def add_legend(ax: Axes, handles: Sequence[Any]) -> None:
    if handles:
        # White behind the words, for curves may run there.
        ax.legend(handles=handles, fontsize=9, edgecolor="none", framealpha=0.9, labelcolor=INK)
