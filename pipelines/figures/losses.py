"""Losses of the members over the steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pipelines.figures.style import INK, MUTED, PALETTE, add_legend, finish_axes, new_figure

Array = NDArray[np.float64]

_DOTTED: dict[str, Any] = {
    "linestyle": (0, (3, 2)),
    "linewidth": 1.2,
    "marker": "o",
    "markersize": 3.5,
}


@dataclass(frozen=True)
class LossCurve:
    """Losses of one member: training by step, and validation at some steps."""

    steps: Sequence[int]
    loss: Sequence[float]
    validation_steps: Sequence[int] = ()
    validation: Sequence[float] = ()

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Those of the rows of a metrics log; one without a loss tells of an event."""
        ended = [row for row in rows if "loss" in row]
        validated = [row for row in ended if "validation" in row]
        return cls(
            [row["step"] for row in ended],
            [row["loss"] for row in ended],
            [row["step"] for row in validated],
            [row["validation"] for row in validated],
        )


def loss_curves(
    curves: Mapping[str, LossCurve],
    floor: float | None = None,
    floor_label: str = "floor",
    ylabel: str = "loss",
) -> Figure:
    """Draw the losses of the members over the steps, on a logarithmic axis.

    Up to eight members have a color each: faint for every step, a line for the running mean,
    dashes with dots for validation. More are drawn as the median of the members with a band from
    the 5th to the 95th percentile.

    Args:
        curves: A member's name to its losses.
        floor: A loss to compare with, drawn dashed: the best linear (Wiener) denoiser's, say.
        floor_label: What it is.
        ylabel: What the loss is.
    """
    figure = new_figure(5.6, 3.9)
    ax = figure.subplots()
    ax.set_yscale("log")
    finish_axes(ax, "step", ylabel)
    if len(curves) > len(PALETTE):
        handles = _draw_loss_band(ax, curves)
    else:
        handles = _draw_each_loss(ax, curves)
    if floor is not None:
        line = ax.axhline(floor, color=INK, linestyle=(0, (5, 3)), linewidth=1.4, zorder=4)
        line.set_label(f"{floor_label} {floor:.3g}")  # a text beside it would lie on the curves
        handles.append(line)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.7 * floor), high)
    add_legend(ax, handles)
    return figure


def _draw_each_loss(ax: Axes, curves: Mapping[str, LossCurve]) -> list[Line2D]:
    handles = []
    for color, (name, curve) in zip(PALETTE, curves.items(), strict=False):
        ax.plot(curve.steps, curve.loss, color=color, alpha=0.18, linewidth=0.7)
        (line,) = ax.plot(curve.steps, _running_mean(curve.loss), color=color, linewidth=1.6)
        line.set_label(name)
        handles.append(line)
        if len(curve.validation):
            ax.plot(curve.validation_steps, curve.validation, color=color, **_DOTTED)
    if any(len(curve.validation) for curve in curves.values()):
        handles.append(Line2D([], [], color=MUTED, label="validation", **_DOTTED))
    return handles


def _draw_loss_band(ax: Axes, curves: Mapping[str, LossCurve]) -> list[Any]:
    training = {name: (c.steps, _running_mean(c.loss)) for name, c in curves.items()}
    validation = {n: (c.validation_steps, c.validation) for n, c in curves.items()}
    handles: list[Any] = []
    for color, label, lines in (
        (PALETTE[0], "training", training),
        (PALETTE[1], "validation", validation),
    ):
        present = [(steps, losses) for steps, losses in lines.values() if len(steps)]
        if not present:
            continue
        grid = np.unique(np.concatenate([steps for steps, _ in present]))
        # Beyond its last step a member has nothing to say.
        values = np.array([np.interp(grid, s, y, np.nan, np.nan) for s, y in present])
        some = np.isfinite(values).any(axis=0)
        grid, values = grid[some], values[:, some]
        low, middle, high = np.nanquantile(values, [0.05, 0.5, 0.95], axis=0)
        ax.fill_between(grid, low, high, color=color, alpha=0.22, linewidth=0)
        (line,) = ax.plot(grid, middle, color=color, linewidth=1.8)
        line.set_label(f"{label}: median and 5–95 % of {len(present)} members")
        handles.append(line)
    return handles


def _running_mean(loss: Sequence[float]) -> Array:
    """Mean over the steps around each one, a fiftieth of all of them; NaN counts for nothing."""
    values = np.asarray(loss, np.float64)
    if not values.size:
        return values
    known = np.isfinite(values)
    # Summed window by window: differences of running sums would not survive one huge loss.
    window = np.ones(2 * (values.size // 100) + 1)
    total = np.convolve(np.where(known, values, 0), window, "same")
    count = np.convolve(known, window, "same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
