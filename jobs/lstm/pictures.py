"""Pictures of forecasts: series, scatter, skill by lead, attention over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pipelines.figures.style import INK, MUTED, PALETTE, add_legend, finish_axes, new_figure

Array = NDArray[Any]

_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_UNIT = "gC m$^{-2}$ d$^{-1}$"


def label(flux: str) -> str:
    """A flux as it is written."""
    return {"rh": "Rh"}.get(flux, flux.upper())


@dataclass(frozen=True)
class Series:
    """Observed and predicted fluxes of one site.

    Attributes:
        site: Its name.
        days: Calendar days, (T).
        observed: (T, F).
        predicted: (T, F), NaN where there is no forecast.
    """

    site: str
    days: Array
    observed: Array
    predicted: Array


def series_panels(series: Sequence[Series], fluxes: Sequence[str], truth: str) -> Figure:
    """Draw a column a site and a row a flux; ``truth`` is where the observed ones are from."""
    figure = new_figure(4.2 * len(series), 1.7 * len(fluxes) + 0.5)
    axes = figure.subplots(len(fluxes), len(series), squeeze=False, sharex="col")
    for column, one in enumerate(series):
        for row, flux in enumerate(fluxes):
            ax = axes[row, column]
            # The wider line below shows on both sides of a forecast that is right.
            ax.plot(one.days, one.observed[:, row], color=MUTED, linewidth=2.4, alpha=0.6)
            ax.plot(one.days, one.predicted[:, row], color=PALETTE[1], linewidth=0.8)
            finish_axes(ax, "", label(flux) if column == 0 else "")
        axes[0, column].set_title(one.site, fontsize=10, color=INK)
        # Two labels: as many as fit below a narrow panel.
        ticks = one.days[[0, len(one.days) // 2]]
        axes[-1, column].set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    handles = [
        Line2D([], [], color=MUTED, linewidth=2.4, alpha=0.6, label=f"{truth}, {_UNIT}"),
        Line2D([], [], color=PALETTE[1], linewidth=0.8, label="network, free-running"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def scatter_panels(observed: Array, predicted: Array, fluxes: Sequence[str], truth: str) -> Figure:
    """Draw predicted against observed for each flux, as counts in hexagons.

    Args:
        observed: (N, F).
        predicted: (N, F).
        fluxes: Their names.
        truth: Where the observed ones are from.
    """
    figure = new_figure(2.9 * len(fluxes), 3.1)
    for ax, flux, x, y in zip(
        figure.subplots(1, len(fluxes), squeeze=False)[0], fluxes, observed.T, predicted.T,
        strict=True,
    ):  # fmt: skip
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        ax.hexbin(
            x, y, gridsize=45, bins="log", mincnt=1, cmap="viridis", extent=(low, high, low, high)
        )
        ax.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        finish_axes(ax, f"{label(flux)}, {truth}", "network")
    return figure


def skill_panels(skills: Mapping[str, Array], fluxes: Sequence[str]) -> Figure:
    """Draw the skill against each reference by lead: one panel a reference, one line a flux.

    Args:
        skills: A reference's name to (leads, F).
        fluxes: Their names.
    """
    figure = new_figure(4.6 * len(skills), 3.3)
    for ax, (name, skill) in zip(
        figure.subplots(1, len(skills), squeeze=False)[0], skills.items(), strict=True
    ):
        lead = np.arange(1, len(skill) + 1)
        handles: list[Any] = [ax.axhline(0, color=INK, linewidth=0.8, label=f"{name}: 0")]
        for n, flux in enumerate(fluxes):
            (line,) = ax.plot(lead, skill[:, n], color=PALETTE[n], linestyle=_STYLES[n % 4])
            line.set_label(label(flux))
            handles.append(line)
        ax.set_ylim(-1, 1.05)  # far below zero it does not matter how far
        finish_axes(ax, "lead, days", f"skill against {name}")
        add_legend(ax, handles)
    return figure


def attention_map(weights: Array, names: Sequence[str], context: int, most: int = 12) -> Figure:
    """Draw the weights of the static features that are attended to most, day by day.

    Args:
        weights: (days of a window, slots).
        names: Of the slots.
        context: Days before the prediction, which is marked.
        most: Slots to draw.
    """
    shown = np.argsort(-weights.mean(axis=0), kind="stable")[:most]
    figure = new_figure(7.5, 0.28 * len(shown) + 1.2)
    ax: Axes = figure.subplots()
    image = ax.imshow(
        weights[:, shown].T,
        aspect="auto",
        interpolation="nearest",
        cmap=matplotlib.colormaps["magma_r"],
    )
    ax.axvline(context - 0.5, color=PALETTE[0], linewidth=1.2)
    ax.set_yticks(range(len(shown)), [names[n].replace("_", " ") for n in shown])
    finish_axes(ax, "day of the window; the prediction begins at the line", "")
    ax.grid(False)
    bar = figure.colorbar(image, ax=ax, pad=0.015)
    bar.set_label("weight", fontsize=9, color=INK)
    return figure
