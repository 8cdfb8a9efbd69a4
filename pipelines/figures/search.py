"""What a search has found: the best so far, and what each parameter has to do with it."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.figures.style import INK, PALETTE, add_legend, finish_axes, new_figure
from pipelines.search import Choice, Space, State, Trial

_PANELS_A_ROW = 4
_COMPLETE: dict[str, Any] = {"s": 26, "color": PALETTE[0], "linewidths": 0, "zorder": 3}
_PRUNED: dict[str, Any] = {"s": 20, "facecolors": "none", "edgecolors": PALETTE[1], "zorder": 2}


def search_history(trials: Sequence[Trial], ylabel: str) -> Figure:
    """Draw the objective of each trial by its number, and the best so far.

    Pruned trials stand at their last validation.

    Args:
        trials: Any, of which some are complete.
        ylabel: What the objective is.
    """
    figure = new_figure(5.6, 3.6)
    ax = figure.subplots()
    ordered = sorted(trials, key=lambda trial: trial.number)
    _scatter(ax, [(trial.number, trial) for trial in ordered], ylabel)
    best, steps = math.inf, []
    for trial in ordered:
        best = min(best, math.inf if trial.value is None else trial.value)
        if math.isfinite(best):
            steps.append((trial.number, best))
    if steps:
        ax.step(*zip(*steps, strict=True), where="post", color=INK, label="best so far")
    finish_axes(ax, "trial", ylabel)
    add_legend(ax, ax.get_legend_handles_labels()[0])
    return figure


def search_parameters(trials: Sequence[Trial], space: Space, ylabel: str) -> Figure:
    """Draw the objective against each parameter, one panel each.

    Args:
        trials: As of :func:`search_history`.
        space: The parameters.
        ylabel: What the objective is.
    """
    columns = min(len(space), _PANELS_A_ROW)
    rows = math.ceil(len(space) / columns)
    figure = new_figure(2.9 * columns, 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax, (path, axis) in zip(panels, space.items(), strict=False):
        values = [trial.point[path] for trial in trials]
        if isinstance(axis, Choice):
            names = list(map(str, axis.values))
            values = [names.index(str(value)) for value in values]
            ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
            ax.set_xlim(-0.5, len(names) - 0.5)
        elif axis.log:
            ax.set_xscale("log")
        _scatter(ax, list(zip(values, trials, strict=True)), ylabel)
        finish_axes(ax, path, ylabel if ax in panels[::columns] else "")
    for ax in panels[len(space) :]:
        ax.set_visible(False)
    return figure


def _scatter(ax: Axes, places: Sequence[tuple[Any, Trial]], ylabel: str) -> None:
    drawn = [(x, _height(trial), trial.state) for x, trial in places]
    drawn = [(x, y, state) for x, y, state in drawn if math.isfinite(y)]
    if all(y > 0 for _, y, _ in drawn):
        ax.set_yscale("log")
    for state, style in ((State.COMPLETE, _COMPLETE), (State.PRUNED, _PRUNED)):
        some = [(x, y) for x, y, found in drawn if found is state]
        if some:
            ax.scatter(*zip(*some, strict=True), label=str(state), **style)


def _height(trial: Trial) -> float:
    if trial.value is not None:
        return trial.value
    return trial.reported[max(trial.reported)] if trial.reported else math.nan
