"""Pictures of the comparison: errors over the steps, said against true, a sequence with marks."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jobs.adding.collected import Array, Point, Trained
from pipelines.figures.style import INK, MUTED, PALETTE, finish_axes, new_figure


def error_panels(points: Sequence[Point]) -> Figure:
    """Draw the validation error over the steps on a logarithmic axis, one panel a length.

    Every seed is a thin line, the median member of each contestant a thick one.

    Args:
        points: Of the sweep.
    """
    lengths = list(dict.fromkeys(point.config.length for point in points))
    colors = colors_of(points)
    figure = new_figure(1 + 4.2 * len(lengths), 4.1)
    axes = figure.subplots(1, len(lengths), squeeze=False)[0]
    for ax, length in zip(axes, lengths, strict=True):
        mine = [point for point in points if point.config.length == length]
        for point in mine:
            for member in point.members:
                _draw_curve(ax, member, colors[point.name], 0.7, 0.45)
            _draw_curve(ax, point.middle, colors[point.name], 1.8, 1.0)
        ax.axhline(mine[0].middle.variance, color=MUTED, linewidth=1, linestyle=(0, (1, 1.5)))
        ax.axhline(mine[0].config.task.goal, color=INK, linewidth=1, linestyle=(0, (5, 3)))
        ax.set_yscale("log")
        finish_axes(ax, "step", "validation MSE")
        ax.set_title(f"T = {length}", fontsize=10, color=INK)
    handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    handles.append(Line2D([], [], color=MUTED, linestyle=(0, (1, 1.5)), label="always the mean"))
    handles.append(Line2D([], [], color=INK, linestyle=(0, (5, 3)), label="goal"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def colors_of(points: Sequence[Point]) -> Mapping[str, str]:
    """One color a name; from the ninth name on they repeat."""
    names = dict.fromkeys(point.name for point in points)
    return {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(names)}


def _draw_curve(ax: Axes, member: Trained, color: str, width: float, alpha: float) -> None:
    # A mark for who learned at the first validation, whose line has no length.
    marker = "o" if len(member.steps) == 1 else None
    ax.plot(
        member.steps, member.validation, color=color, linewidth=width, alpha=alpha, marker=marker
    )


def scatter_panels(points: Sequence[Point]) -> Figure:
    """Draw what the median member of each point says against the true sum.

    Args:
        points: Of the sweep, four a row.
    """
    columns = min(4, len(points))
    rows = -(-len(points) // columns)
    figure = new_figure(2.7 * columns, 2.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colors = colors_of(points)
    for n, ax in enumerate(axes.flat):
        if n >= len(points):
            ax.set_visible(False)
            continue
        point = points[n]
        member = point.middle
        ax.plot([0, 2], [0, 2], color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        ax.scatter(member.sums, member.prediction, s=4, alpha=0.5, color=colors[point.name])
        finish_axes(ax, "true sum", "predicted")
        title = f"{point.name}, T = {point.config.length}: {member.final:.2g}"
        ax.set_title(title, fontsize=8.5, color=INK)
        ax.set_box_aspect(1)
        ax.set_xlim(-0.1, 2.1)
        ax.set_ylim(-0.1, 2.1)
    return figure


def example(sequence: Array, said: Mapping[str, float], true: float) -> Figure:
    """Draw one sequence with its two marks, and what each network says of it.

    Args:
        sequence: Values and marks, (T, 2).
        said: A contestant's name to its prediction.
        true: The sum.
    """
    values, marks = sequence[:, 0], sequence[:, 1] > 0
    figure = new_figure(10, 2.9)
    ax = figure.subplots()
    (line,) = ax.plot(values, color=PALETTE[0], linewidth=1, label="value")
    (places,) = ax.plot(np.flatnonzero(marks), values[marks], "o", color=PALETTE[1], markersize=8)
    places.set_label(f"marked, sum {true:.3f}")
    for place in np.flatnonzero(marks):
        at = (place, values[place])
        ax.annotate(f"{values[place]:.3f}", at, (6, 6), textcoords="offset points", fontsize=9)
    finish_axes(ax, "step", "value")
    ax.set_ylim(-0.05, 1.25)
    handles = [line, places]
    handles += [Line2D([], [], linestyle="", label=f"{n}: {v:.3f}") for n, v in said.items()]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure
