"""Figures of a run, drawn on matplotlib's objects: no global state, no display, safe in threads.

Colors are told apart by color-blind readers (Okabe and Ito's palette, a red-blue diverging map),
and what a color says is also said by a label, a line style or a position.
"""

from pipelines.figures.fields import vorticity_panel
from pipelines.figures.losses import LossCurve, loss_curves
from pipelines.figures.statistics import rank_bars, spectra
from pipelines.figures.style import png_bytes, save_png

__all__ = [
    "LossCurve",
    "loss_curves",
    "png_bytes",
    "rank_bars",
    "save_png",
    "spectra",
    "vorticity_panel",
]
