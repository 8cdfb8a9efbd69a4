"""Statistics for the page: what they are, and that they are computed once for a seal."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ensemble import (
    ArraySpec,
    Coordinate,
    EnsembleError,
    collect,
    create_ensemble,
    write_member,
)
from pipelines.evaluation import crps, rank_histogram, spread_error_ratio
from pipelines.statistics import run_summary, save_truth
from pipelines.statistics.outline import Binned
from pipelines.statistics.summary import _computed

ATTRIBUTES = {"config_digest": "c0ffee"}
MEMBERS = np.random.default_rng(0).standard_normal((5, 2, 4, 6, 8)).astype(np.float32)
TRUTH = np.random.default_rng(1).standard_normal((4, 6, 8))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sealed ensemble of a field of two samples, a profile of one axis, and a number."""
    store = tmp_path / "ensemble.zarr"
    specs = [
        ArraySpec("u", (2, 4, 6, 8), ("sample", "time", "y", "x"), chunks=(1, 2, 3, 8), units="m"),
        ArraySpec("loss", (), ()),
        ArraySpec("profile", (8,), ("height",)),
    ]
    time = Coordinate("time", 0.5 * np.arange(4), "s", "time")
    create_ensemble(store, 5, specs, ATTRIBUTES, [time])
    for member, u in enumerate(MEMBERS):
        values = {"u": u, "loss": np.float32(member), "profile": u[0, 0, 0]}
        write_member(store, member, values, ATTRIBUTES, fence=1)
    collect(store)
    return tmp_path


def test_series_map_and_scores_are_those_of_the_whole_array(run: Path) -> None:
    save_truth(run, {"u": TRUTH})
    found = run_summary(run)
    assert found is not None
    assert (found["members"], found["truth"]) == (5, "truth.h5")
    u, truth = found["arrays"]["u"], np.broadcast_to(TRUTH, MEMBERS.shape[1:])
    variance, mean = MEMBERS.var(axis=0, ddof=1), MEMBERS.mean(axis=0)
    assert u["series"]["at"] == [0, 0.5, 1, 1.5]
    near = partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)  # six digits are kept
    spread = np.sqrt(variance.mean(axis=(0, 2, 3)))
    near(u["series"]["spread"], spread)
    error = np.sqrt(((mean - truth) ** 2).mean(axis=(0, 2, 3)))
    near(u["series"]["error"], error)
    assert u["map"]["at"] == {"sample": 0, "time": 3}
    near(u["map"]["mean"], mean[0, 3])
    near(u["map"]["spread"], np.sqrt(variance[0, 3]))
    near(u["map"]["error"], np.abs(mean - truth)[0, 3])
    assert u["crps"] == pytest.approx(crps(MEMBERS, truth), rel=1e-5)
    assert u["spread_error_ratio"] == pytest.approx(spread_error_ratio(MEMBERS, truth), rel=1e-5)
    assert u["rank_histogram"] == rank_histogram(MEMBERS, truth, np.random.default_rng()).tolist()


def test_without_a_truth_there_is_the_spread_alone(run: Path) -> None:
    found = run_summary(run)
    assert found is not None
    assert found["truth"] is None
    assert "error" not in found["arrays"]["u"]["series"]
    assert found["arrays"]["u"]["rank_histogram"] is None
    profile, loss = found["arrays"]["profile"], found["arrays"]["loss"]
    assert (profile["series"]["dim"], profile["series"]["alone"], profile["map"]) == (
        *("height", True),
        None,
    )
    assert (loss["series"], loss["map"]) == (None, None)
    assert loss["spread_rms"] == pytest.approx(np.std(np.arange(5), ddof=1), rel=1e-5)


def test_what_is_not_finite_is_null_and_counts_nowhere(run: Path) -> None:
    truth = TRUTH.copy()
    truth[1], truth[3, 2, 2] = np.nan, np.nan
    save_truth(run, {"u": truth})
    found = run_summary(run)
    assert found is not None
    kept = json.loads((run / "report" / "statistics.json").read_text())
    assert kept == found
    assert found["arrays"]["u"]["series"]["error"][1] is None
    assert None not in found["arrays"]["u"]["series"]["spread"]
    assert found["arrays"]["u"]["map"]["error"][2][2] is None
    assert found["arrays"]["u"]["points"] == 2 * (TRUTH.size - 48 - 1)


def test_they_are_computed_once_for_a_seal_and_a_truth(run: Path) -> None:
    first = run_summary(run)
    shard = run / "ensemble.zarr" / "u" / "c.4.0.0.0.0"
    shard.unlink()
    _computed.cache_clear()
    assert run_summary(run) == first  # nothing was read, for the shard is gone
    (run / "report" / "statistics.json").write_text("[]")
    with pytest.raises(EnsembleError, match=r"c\.4\.0\.0\.0\.0: No such file"):
        run_summary(run)
    collect(run / "ensemble.zarr", partial=True)
    again = run_summary(run)
    assert again is not None
    assert again["members"] == 4
    save_truth(run, {"u": TRUTH})
    scored = run_summary(run)
    assert scored is not None
    assert sum(scored["arrays"]["u"]["rank_histogram"]) == 2 * TRUTH.size


def test_who_may_write_nothing_has_them_computed_once_too(run: Path) -> None:
    (run / "report").write_text("in the way")
    first = run_summary(run)
    assert first is not None
    (run / "ensemble.zarr" / "u" / "c.4.0.0.0.0").unlink()
    assert run_summary(run) == first


def test_there_are_none_before_the_seal(run: Path) -> None:
    (run / "commits" / "manifest.json").unlink()
    assert run_summary(run) is None
    assert not (run / "report").exists()


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 9)),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_bins_average_their_points_however_chunks_lie(
    shape: tuple[int, int, int], chunk: int, most: int, seed: int
) -> None:
    mean = np.random.default_rng(seed).standard_normal(shape)
    terms = np.stack([np.ones(shape), mean, mean**2, np.zeros(shape), np.zeros(shape)])
    series, chart = Binned(shape, (1,), None, most), Binned(shape, (1, 2), {0: 0}, most)
    for start in range(0, shape[2], chunk):
        place = (slice(0, shape[0]), slice(0, shape[1]), slice(start, min(start + chunk, shape[2])))
        for binned in (series, chart):
            binned.add(place, terms[(slice(None), *place)])
    rows, columns = (np.arange(n) * min(most, n) // n for n in shape[1:])
    for r in range(rows[-1] + 1):
        inside = mean[:, rows == r]
        assert series.values()["mean"][r] == pytest.approx(inside.mean())
        assert series.values()["spread"][r] == pytest.approx(np.sqrt((inside**2).mean()))
        for c in range(columns[-1] + 1):
            expected = inside[0][:, columns == c].mean()
            assert chart.values()["mean"][r, c] == pytest.approx(expected)
    assert "error" not in series.values()
