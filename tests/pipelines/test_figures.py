import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from pipelines.figures import (
    LossCurve,
    loss_curves,
    png_bytes,
    rank_bars,
    save_png,
    spectra,
    vorticity_panel,
)
from pipelines.figures.losses import _running_mean
from pipelines.figures.style import UNSEEN

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
TRUTH = 4.45 * RNG.standard_normal((5, 16, 16))
MEMBERS = TRUTH + RNG.standard_normal((4, 5, 16, 16))
OBSERVED = np.where(np.indices(TRUTH.shape)[1] % 4 == 0, TRUTH, np.nan)


def panel(**options: Any) -> Figure:
    arguments: dict[str, Any] = {"times": 0.2 * np.arange(5), "time_unit": "s"} | options
    return vorticity_panel(TRUTH, MEMBERS, MEMBERS.mean(0), MEMBERS.std(0), OBSERVED, **arguments)


def maps(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.images]


def curve(seed: int, steps: int = 300) -> LossCurve:
    loss = np.exp(-np.arange(steps) / 50) + 0.03 + 0.01 * np.random.default_rng(seed).random(steps)
    return LossCurve(range(steps), loss.tolist(), range(9, steps, 10), loss[9::10].tolist())


def test_rows_and_columns_of_the_panel() -> None:
    axes = maps(panel())
    assert len(axes) == 7 * 5
    assert [ax.get_title() for ax in axes[:5]] == [f"t = {t:g} s" for t in (0, 0.2, 0.4, 0.6, 0.8)]
    assert [ax.get_ylabel() for ax in axes[::5]] == [
        "truth", "observation", "member 0", "member 1", "member 2", "mean", "spread",
    ]  # fmt: skip
    np.testing.assert_array_equal(axes[3].images[0].get_array(), TRUTH[3])
    np.testing.assert_array_equal(axes[2 * 5 + 1].images[0].get_array(), MEMBERS[0, 1])


def test_vorticity_shares_one_symmetric_scale_and_spread_has_its_own() -> None:
    axes = maps(panel())
    limits = {ax.images[0].get_clim() for ax in axes[:-5]}
    ((low, high),) = limits
    assert low == -high
    assert high == pytest.approx(np.percentile(np.abs(TRUTH), 99.7))
    assert {ax.images[0].get_clim()[0] for ax in axes[-5:]} == {0.0}


def test_the_unobserved_is_gray_and_the_rest_is_not() -> None:
    image = maps(panel())[5].images[0]
    colors = image.to_rgba(np.ma.asarray(image.get_array()))[..., :3]
    gray = np.isclose(colors, to_rgb(UNSEEN)).all(axis=-1)
    np.testing.assert_array_equal(gray, np.isnan(OBSERVED[0]))


def test_long_trajectories_are_thinned_evenly_with_both_ends_kept() -> None:
    axes = maps(panel(most_times=3, most_members=1))
    assert len(axes) == 5 * 3
    assert [ax.get_title() for ax in axes[:3]] == ["t = 0 s", "t = 0.4 s", "t = 0.8 s"]


def test_a_flow_at_rest_and_a_lone_frame_can_be_drawn() -> None:
    rest = np.zeros((1, 4, 4))
    figure = vorticity_panel(rest, rest[None], rest, rest)
    assert len(maps(figure)) == 4
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_few_members_have_a_line_each_and_the_floor_is_in_sight() -> None:
    figure = loss_curves({f"member {i}": curve(i) for i in range(3)}, 0.0297, "Wiener filter")
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    legend = ax.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["member 0", "member 1", "member 2", "validation", "Wiener filter 0.0297"]
    floors = [x for x in ax.lines if set(np.atleast_1d(x.get_ydata())) == {0.0297}]
    assert len(floors) == 1
    assert floors[0].is_dashed()
    assert ax.get_ylim()[0] < 0.0297


def test_many_members_are_a_band_around_their_median() -> None:
    curves = {str(i): curve(i) for i in range(9)}
    (ax,) = loss_curves(curves).axes
    assert len(ax.lines) == 2
    assert len(ax.collections) == 2
    smooth = [_running_mean(found.loss) for found in curves.values()]
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), np.median(smooth, axis=0))


def test_members_of_different_length_and_with_lost_steps_can_be_drawn() -> None:
    curves = {str(i): curve(i, 100 + 10 * i) for i in range(12)}
    holes = LossCurve([0, 1, 2], [np.nan, np.nan, np.nan])
    for members in (curves, {"short": curve(0, 1), "none": LossCurve([], []), "nan": holes}, {}):
        assert png_bytes(loss_curves(members)).startswith(b"\x89PNG")


def test_the_running_mean_is_the_mean_of_the_window_without_nan() -> None:
    loss = RNG.random(700)
    loss[[0, 100, 101]] = np.nan
    loss[300] = 1e30
    windows = [loss[max(i - 7, 0) : i + 8] for i in range(700)]
    np.testing.assert_allclose(_running_mean(loss.tolist()), [np.nanmean(w) for w in windows])


def test_spectra_show_truth_band_and_slope() -> None:
    k = np.arange(33)
    energy = np.where(k > 0, np.maximum(k, 1.0) ** -3, 5.0)
    members = energy * np.array([[0.5], [1.0], [3.0]])
    (ax,) = spectra(k, energy, members, slope=-5).axes
    median, truth, law = (np.asarray(line.get_xydata()) for line in ax.lines)
    np.testing.assert_allclose(truth, np.stack([k, energy], axis=1)[1:])
    np.testing.assert_allclose(median, truth)
    (start, stop) = np.log(law)
    assert (stop[1] - start[1]) / (stop[0] - start[0]) == pytest.approx(-5)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_rank_bars_are_relative_to_a_flat_histogram() -> None:
    (ax,) = rank_bars([10, 20, 30]).axes
    heights = [bar.get_window_extent().height for bar in ax.patches]
    np.testing.assert_allclose(np.divide(heights, heights[1]), [0.5, 1.0, 1.5])
    (flat,) = ax.lines
    assert list(np.asarray(flat.get_ydata())) == [1, 1]


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        pages = set(pool.map(lambda _: png_bytes(panel(most_times=2)), range(2)))
    assert len(pages) == 1
    save_png(panel(most_times=2), tmp_path / "panel.png")
    assert (tmp_path / "panel.png").read_bytes() in pages
    assert b"Software" not in next(iter(pages))
    assert list(tmp_path.iterdir()) == [tmp_path / "panel.png"]
    height, width = imread(tmp_path / "panel.png").shape[:2]
    assert width == pytest.approx((1.2 * 2 + 1.3) * 150, abs=1)
    assert height == pytest.approx((1.2 * 7 + 0.4) * 150, abs=1)


def test_drawing_leaves_the_global_state_of_pyplot_alone() -> None:
    code = (
        "import sys; from pipelines.figures import png_bytes, rank_bars; png_bytes(rank_bars([1]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
