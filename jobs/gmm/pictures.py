"""Pictures of fits: densities with their components and CDF errors, tail quantiles, health."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from kernels.gmm.mixture import Mixture, cdf, log_component_densities
from pipelines.figures.style import INK, MUTED, PALETTE, add_legend, finish_axes, new_figure

Array = NDArray[Any]

_POINTS = 600
_FINE: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (4, 2))}
_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)))


@dataclass(frozen=True)
class Fitted:
    """One density and the mixture fitted to it.

    Attributes:
        name: Of its family.
        edges: Of the cells, (N + 1).
        masses: Exact, (N).
        mixture: Fitted, (1, K).
    """

    name: str
    edges: torch.Tensor
    masses: torch.Tensor
    mixture: Mixture


def fit_panels(fits: Sequence[Fitted]) -> Figure:
    """Draw each density with its mixture and components, and under it the error of the CDF.

    Args:
        fits: What to draw, up to three in a row.
    """
    columns = min(3, len(fits))
    rows = -(-len(fits) // columns)
    figure = new_figure(3.5 * columns, 3.7 * rows)
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.4, 1] * rows)
    for n, fit in enumerate(fits):
        row, column = divmod(n, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        below.sharex(above)
        _draw_density(above, fit)
        _draw_cdf_error(below, fit)
    for n in range(len(fits), rows * columns):
        for row in (2 * (n // columns), 2 * (n // columns) + 1):
            axes[row, n % columns].set_visible(False)
    handles = [
        Patch(color=MUTED, alpha=0.25, label="exact, cell by cell"),
        Line2D([], [], color=PALETTE[1], label="mixture"),
        Line2D([], [], color=PALETTE[0], label="components", **_FINE),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_density(ax: Axes, fit: Fitted) -> None:
    heights = (fit.masses / fit.edges.diff()).numpy()
    low, high = _range(fit)
    z = torch.linspace(low, high, _POINTS, dtype=torch.float64)
    parts = log_component_densities(fit.mixture.to(torch.float64), z[None])[0].exp()
    ax.stairs(heights, fit.edges.numpy(), color=MUTED, fill=True, alpha=0.25)
    ax.plot(z, parts, color=PALETTE[0], **_FINE)
    ax.plot(z, parts.sum(dim=-1), color=PALETTE[1], linewidth=1.5)
    finish_axes(ax, "", "density")
    ax.tick_params(labelbottom=False)
    ax.set_title(fit.name.replace("_", " "), fontsize=10, color=INK)
    ax.set_xlim(low, high)


def _draw_cdf_error(ax: Axes, fit: Fitted) -> None:
    found = cdf(fit.mixture.to(torch.float64), fit.edges[None])[0, 1:]
    error = found - fit.masses.cumsum(dim=-1)
    ax.axhline(0, color=MUTED, linewidth=0.8)
    ax.plot(fit.edges[1:], error, color=PALETTE[2], linewidth=1.2)
    finish_axes(ax, "z", "CDF error")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def _range(fit: Fitted) -> tuple[float, float]:
    """Where all but a ten-thousandth of the density is, and a little more."""
    below = fit.masses.cumsum(dim=-1)
    inside = ((below > 1e-4) & (below < 1 - 1e-4)).nonzero().flatten()
    first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (0, len(below) - 1)
    return float(fit.edges[max(0, first - 3)]), float(fit.edges[min(len(below), last + 5)])


def error_curves(
    errors: Mapping[str, Array], xlabel: str, marks: Mapping[float, str] | None = None
) -> Figure:
    """Draw what share of the densities has an error of at most so much.

    Args:
        errors: A method's name to its errors, of any sign; those that are not finite never count.
        xlabel: What the error is.
        marks: Errors to point out, with what they are.
    """
    figure = new_figure(5.6, 3.9)
    ax = figure.subplots()
    handles = []
    for color, style, (name, values) in zip(PALETTE, _STYLES, errors.items(), strict=False):
        sizes = np.sort(np.abs(values[np.isfinite(values)]))
        share = np.arange(1, len(sizes) + 1) / max(1, len(values))
        (line,) = ax.plot(np.maximum(sizes, 1e-8), share, color=color, linestyle=style)
        line.set_label(f"{name}: median {np.median(sizes):.2g}" if len(sizes) else name)
        handles.append(line)
    for at, name in (marks or {}).items():
        ax.axvline(at, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        ax.annotate(name, (at, 0.02), (3, 0), textcoords="offset points", fontsize=8, color=MUTED)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    finish_axes(ax, xlabel, "share of densities")
    add_legend(ax, handles)
    return figure


def health_panels(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the signs of collapse of each member over the epochs that were validated.

    Args:
        histories: A member's name to its rows of metrics.
    """
    panels = {
        "sigma / sd": ("sigma_min", "sigma_median", "sigma_max"),
        "peak x sd": ("peak_max", "peak_mean"),
        "share of sigmas at the floor": ("floor_ratio",),
    }
    figure = new_figure(10.5, 3.2)
    axes = figure.subplots(1, len(panels))
    for ax, (title, names) in zip(axes, panels.items(), strict=True):
        for color, rows in zip(PALETTE, histories.values(), strict=False):
            seen = [row for row in rows if names[0] in row]
            for style, name in zip(_STYLES, names, strict=False):
                values = [row[name] for row in seen]
                epochs = [row["epoch"] for row in seen]
                ax.plot(epochs, values, color=color, linestyle=style, linewidth=1.2)
        if len(names) > 1:
            ax.set_yscale("log")
            add_legend(ax, [_key(n, s) for n, s in zip(names, _STYLES, strict=False)])
        else:
            ax.set_ylim(bottom=0)
        finish_axes(ax, "epoch", title)
    return figure


def _key(name: str, style: Any) -> Line2D:
    return Line2D([], [], color=MUTED, linestyle=style, label=name.split("_")[1])
