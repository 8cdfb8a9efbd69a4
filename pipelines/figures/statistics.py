"""Statistics of an ensemble: spectra and ranks."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from pipelines.figures.style import INK, PALETTE, add_legend, finish_axes, new_figure

Array = NDArray[np.float64]


def spectra(
    k: ArrayLike,
    truth: ArrayLike,
    members: ArrayLike,
    slope: float | None = None,
    ylabel: str = "energy E(k)",
) -> Figure:
    r"""Draw the energy spectrum of the truth and of the members on logarithmic axes.

    Args:
        k: Wavenumbers, :math:`(K)`; zero is left out.
        truth: :math:`(K)`.
        members: :math:`(M, K)`: the median as a line, the band from the least to the greatest.
        slope: Exponent of a reference line, laid above the truth over its middle wavenumbers.
        ylabel: What is drawn.
    """
    wavenumber = np.asarray(k, np.float64)
    keep = wavenumber > 0
    wavenumber, energy = wavenumber[keep], np.asarray(truth, np.float64)[keep]
    posterior = np.atleast_2d(np.asarray(members, np.float64))[:, keep]
    figure = new_figure(5.6, 3.9)
    ax = figure.subplots()
    ax.set_xscale("log")
    ax.set_yscale("log")
    finish_axes(ax, "wavenumber k", ylabel)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= wavenumber[-1]]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    low, middle, high = np.quantile(posterior, [0, 0.5, 1], axis=0)
    band = ax.fill_between(wavenumber, low, high, color=PALETTE[0], alpha=0.25, linewidth=0)
    (line,) = ax.plot(wavenumber, middle, color=PALETTE[0], linewidth=1.8)
    (reference,) = ax.plot(wavenumber, energy, color=INK, linewidth=1.6, linestyle=(0, (5, 2)))
    band.set_label("members, least to greatest")
    line.set_label("members, median")
    reference.set_label("truth")
    handles: list[Any] = [reference, line, band]
    if slope is not None:
        handles.append(_draw_slope(ax, wavenumber, energy, slope))
    add_legend(ax, handles)
    return figure


def rank_bars(counts: ArrayLike) -> Figure:
    """Draw a rank histogram, relative to the flat one of exchangeable members, which is at one."""
    seen = np.asarray(counts, np.float64)
    figure = new_figure(5.6, 3.9)
    ax = figure.subplots()
    ax.bar(np.arange(seen.size), seen * seen.size / seen.sum(), color=PALETTE[0], width=0.86)
    ax.axhline(1, color=INK, linestyle=(0, (5, 3)), linewidth=1.4)
    finish_axes(ax, "rank of the truth among the members", "frequency / flat")
    ax.grid(False, axis="x")
    ax.set_xticks(np.unique(np.linspace(0, seen.size - 1, min(seen.size, 12)).round()))
    return figure


def _draw_slope(ax: Axes, k: Array, energy: Array, slope: float) -> Line2D:
    """Draw a power law over the middle of the logarithmic axis, above the truth."""
    edges = np.quantile(np.log(k), [0, 1])
    span = np.exp(edges[0] + (edges[1] - edges[0]) * np.array([0.42, 0.78]))
    anchor = np.exp(np.interp(np.log(span[0]), np.log(k), np.log(energy)))
    (line,) = ax.plot(
        span, 2.5 * anchor * (span / span[0]) ** slope, color=PALETTE[1], linewidth=1.6
    )
    line.set_label(f"slope {slope:.3g}".replace("-", "−"))
    return line
