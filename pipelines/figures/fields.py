"""Fields on a grid, frame by frame."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from pipelines.figures.style import INK, MUTED, UNSEEN, new_figure

Array = NDArray[np.float64]

_DIVERGING, _SEQUENTIAL = "RdBu_r", "magma_r"


def vorticity_panel(
    truth: ArrayLike,
    members: ArrayLike,
    mean: ArrayLike,
    spread: ArrayLike,
    observation: ArrayLike | None = None,
    times: Sequence[float] | None = None,
    time_unit: str = "",
    most_members: int = 3,
    most_times: int = 8,
) -> Figure:
    r"""Draw truth, observation, posterior members, their mean and spread; time runs to the right.

    All but the spread share one diverging scale, symmetric about zero, whose limit is the 99.7th
    percentile of the truth's magnitude.

    Args:
        truth: Vorticity, :math:`(T, H, W)`.
        members: :math:`(M, T, H, W)`; the first ``most_members`` are drawn.
        mean: Mean over members, :math:`(T, H, W)`.
        spread: Standard deviation over members, :math:`(T, H, W)`.
        observation: :math:`(T, H, W)`, NaN, drawn gray, where nothing was observed.
        times: Time of each frame; default: its index.
        time_unit: Written after each time.
        most_members: Members to draw.
        most_times: Frames to draw; more are thinned evenly, with the first and the last kept.
    """
    x = np.asarray(truth, np.float64)
    rows = [("truth", x)]
    if observation is not None:
        rows.append(("observation", np.asarray(observation, np.float64)))
    drawn = np.asarray(members, np.float64)[:most_members]
    rows += [(f"member {index}", member) for index, member in enumerate(drawn)]
    rows += [("mean", np.asarray(mean, np.float64)), ("spread", np.asarray(spread, np.float64))]
    frames = np.unique(np.linspace(0, len(x) - 1, min(most_times, len(x))).round().astype(int))
    labels = [f"t = {times[f] if times is not None else f:g} {time_unit}".strip() for f in frames]

    figure = new_figure(1.2 * len(frames) + 1.3, 1.2 * len(rows) + 0.4)
    axes = figure.subplots(len(rows), len(frames), squeeze=False)
    limit = float(np.percentile(np.abs(x), 99.7)) or 1.0
    images = [
        _draw_row(axes[row], values[frames], name, limit) for row, (name, values) in enumerate(rows)
    ]
    for ax, label in zip(axes[0], labels, strict=True):
        ax.set_title(label, fontsize=9, color=INK, pad=4)
    _color_bar(figure, images[0], axes[:-1], "vorticity", extend="both")
    _color_bar(figure, images[-1], axes[-1:], "spread", extend="max")
    return figure


def _draw_row(axes: Sequence[Axes], frames: Array, name: str, limit: float) -> AxesImage:
    colors = matplotlib.colormaps[_DIVERGING].with_extremes(bad=UNSEEN)
    norm = Normalize(-limit, limit)
    if name == "spread":
        colors = matplotlib.colormaps[_SEQUENTIAL]
        norm = Normalize(0, float(np.percentile(frames, 99.7)) or 1.0)
    for ax, frame in zip(axes, frames, strict=True):
        # Cells stay cells: interpolation would mix observed with unobserved ones.
        image = ax.imshow(frame, cmap=colors, norm=norm, origin="lower", interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        for side in ax.spines.values():
            side.set(color=MUTED, linewidth=0.5)
    axes[0].set_ylabel(name, fontsize=9, color=INK)
    return image


def _color_bar(figure: Figure, image: AxesImage, axes: Any, label: str, extend: str) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=9 * len(axes), extend=extend)
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, color=MUTED, labelcolor=MUTED)
    bar.outline.set(linewidth=0.5, edgecolor=MUTED)
