import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.cgroup import run_limited

from pipelines.ensemble import (
    ArraySpec,
    Coordinate,
    EnsembleError,
    collect,
    create_ensemble,
    write_member,
)
from pipelines.ensemble.layout import Codec
from pipelines.evaluation import crps, rank_histogram, rmse, spread_error_ratio
from pipelines.statistics import ensemble_statistics
from pipelines.statistics.points import quantiles_of_sorted, ranks

ATTRIBUTES = {"config_digest": "c0ffee"}
TIME = Coordinate("time", 0.2 * np.arange(4), "s", "time")
LEVELS = (0.0, 0.1, 0.5, 0.9, 1.0)


def stored(path: Path, members: np.ndarray, codec: Codec = "none") -> Path:
    """A collected ensemble of one array, (members, time, x), in chunks of a part of it."""
    shape = members.shape[1:]
    chunks = (2, *shape[1:]) if shape[0] % 2 == 0 else None
    spec = ArraySpec("u", shape, ("time", "x"), str(members.dtype), "m s-1", "speed", chunks, codec)
    create_ensemble(path, len(members), [spec], ATTRIBUTES, [TIME] if shape[0] == 4 else [])
    for member, values in enumerate(members):
        write_member(path, member, {"u": values}, ATTRIBUTES, fence=1)
    collect(path)
    return path


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def ensemble(tmp_path: Path) -> Path:
    return stored(tmp_path / "ensemble.zarr", normal(5, 4, 6))


@settings(max_examples=15, deadline=None)
@given(
    arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 4]), st.integers(1, 5)),
        elements=st.floats(-100, 100, width=16),
    ),
    st.sampled_from(["none", "lz4-bitshuffle"]),
    st.sampled_from([1, 400, 2**20]),
)
def test_statistics_are_those_of_the_whole_array(
    members: np.ndarray, codec: Codec, memory: int
) -> None:
    truth = {"u": normal(*members.shape[1:])}
    with tempfile.TemporaryDirectory() as directory:
        path = stored(Path(directory) / "ensemble.zarr", members, codec)
        found = ensemble_statistics(path, truth, LEVELS, memory=memory)
    x, y = members.astype(np.float64), truth["u"]
    np.testing.assert_allclose(found.u_mean, x.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.u_spread, x.std(axis=0, ddof=len(x) > 1), atol=1e-12)
    np.testing.assert_allclose(found.u_quantile, np.quantile(x, LEVELS, axis=0), atol=1e-12)
    assert found.u_rmse == pytest.approx(rmse(x.mean(axis=0), y))
    assert found.u_points == y.size
    assert found.u_rank_histogram.sum() == y.size
    if len(x) == 1:
        assert np.isnan(found.u_crps)
        assert np.isnan(found.u_spread_error_ratio)
        return
    assert found.u_crps == pytest.approx(crps(x, y), abs=1e-12)
    assert found.u_spread_error_ratio == pytest.approx(spread_error_ratio(x, y))
    untied = rank_histogram(x, y, np.random.default_rng(0))
    np.testing.assert_array_equal(found.u_rank_histogram, untied)


def test_statistics_equal_those_of_xarray_and_carry_its_labels(ensemble: Path) -> None:
    found = ensemble_statistics(ensemble, quantiles=LEVELS)
    with xarray.open_zarr(ensemble, chunks=None) as opened:
        u = opened.u.astype(np.float64)
        for name, expected in {
            "u_mean": u.mean("member"),
            "u_spread": u.std("member", ddof=1),
            "u_quantile": u.quantile(LEVELS, "member"),
        }.items():
            xarray.testing.assert_allclose(
                found[name], expected.drop_vars("valid", errors="ignore")
            )
    assert found.u_mean.attrs == {
        "units": "m s-1",
        "long_name": "mean over members of speed",
        "cell_methods": "member: mean",
    }
    assert found.u_spread.cell_methods == "member: standard_deviation"
    assert found.time.units == "s"
    assert found.attrs["members"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("memory", [1, 2**28])
def test_a_store_holds_what_memory_would(ensemble: Path, memory: int) -> None:
    out = ensemble.parent / "statistics.zarr"
    truth = {"u": normal(4, 6, seed=1)}
    kept = ensemble_statistics(ensemble, truth)
    written = ensemble_statistics(ensemble, truth, out=out, memory=memory)
    assert written.u_mean.encoding["shards"] == (4, 6)
    xarray.testing.assert_allclose(written.load(), kept)
    assert {n: v.attrs for n, v in written.variables.items()} == {
        n: v.attrs for n, v in kept.variables.items()
    }
    assert written.attrs == kept.attrs
    assert len(list((out / "u_quantile").iterdir())) == 2
    assert [p.name for p in ensemble.parent.glob(".*.tmp")] == []
    with pytest.raises(EnsembleError, match="there is something already"):
        ensemble_statistics(ensemble, out=out)


def _noting(seen: list[tuple[int, int]]) -> Callable[[int, int], None]:
    return lambda done, of: seen.append((done, of))


def test_scalars_and_several_arrays(tmp_path: Path) -> None:
    specs = [ArraySpec("loss", (), (), "float64"), ArraySpec("w", (3,), ("k",))]
    path = tmp_path / "ensemble.zarr"
    create_ensemble(path, 3, specs, ATTRIBUTES)
    for member in range(3):
        values = {"loss": np.float64(member) * np.ones(()), "w": normal(3, seed=member)}
        write_member(path, member, values, ATTRIBUTES, fence=1)
    collect(path)
    for out in (None, tmp_path / "statistics.zarr"):
        seen: list[tuple[int, int]] = []
        found = ensemble_statistics(path, out=out, progress=_noting(seen))
        assert (found.loss_mean, found.loss_spread) == (1, 1)
        np.testing.assert_allclose(found.loss_quantile, [0.1, 0.5, 1, 1.5, 1.9])
        assert found.w_mean.dims == ("k",)
        assert seen == [(1, 2), (2, 2)]
    scores = ensemble_statistics(path, fields=False)
    assert sorted(map(str, scores.data_vars)) == [
        "loss_points",
        "loss_spread_rms",
        "w_points",
        "w_spread_rms",
    ]


def test_members_that_are_not_valid_do_not_count(tmp_path: Path) -> None:
    members = normal(4, 4, 6)
    path = stored(tmp_path / "ensemble.zarr", members)
    (path / "u/c.2.0.0").unlink()
    with pytest.raises(EnsembleError, match=r"u/c\.2\.0\.0: No such file"):
        ensemble_statistics(path)
    collect(path, partial=True)
    found = ensemble_statistics(path)
    np.testing.assert_allclose(found.u_mean, members[[0, 1, 3]].mean(axis=0), rtol=1e-6)
    assert found.attrs["members"] == [0, 1, 3]


def test_an_ensemble_that_was_not_collected_has_no_statistics(ensemble: Path) -> None:
    (ensemble / "valid/c.0").unlink()
    with pytest.raises(EnsembleError, match="collect the ensemble first"):
        ensemble_statistics(ensemble)


def test_what_is_not_finite_is_shown_and_not_scored(tmp_path: Path) -> None:
    members, truth = normal(5, 4, 6), normal(4, 6, seed=9)
    members[1, 0, 0], members[2, 3, 5], truth[2, 2] = np.nan, np.inf, np.nan
    path = stored(tmp_path / "ensemble.zarr", members)
    found = ensemble_statistics(path, {"u": truth})
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(members.mean(axis=0) + truth)
    assert found.u_points == whole.sum() == 21
    assert found.u_crps == pytest.approx(crps(members[:, whole], truth[whole]))
    assert np.isnan(found.u_mean[0, 0])
    assert np.isnan(found.u_quantile[:, 0, 0]).all()
    assert found.u_mean[3, 5] == np.inf
    assert np.isfinite(found.u_mean[2, 2])


@pytest.mark.parametrize("how", ["truncate", "index"])
def test_a_damaged_shard_is_told(ensemble: Path, how: str) -> None:
    shard = ensemble / "u/c.3.0.0"
    content = shard.read_bytes()
    shard.write_bytes(content[:-40] if how == "truncate" else content[:-9] + b"x" + content[-8:])
    with pytest.raises(EnsembleError, match=r"c\.3\.0\.0: .*'yaoki verify' says more"):
        ensemble_statistics(ensemble)


def test_what_does_not_fit_is_refused(ensemble: Path) -> None:
    with pytest.raises(EnsembleError, match=r"truth u of shape \(5,\): expected \(4, 6\)"):
        ensemble_statistics(ensemble, {"u": normal(5)})
    with pytest.raises(EnsembleError, match=r"truth v .*one of the arrays \['u'\]"):
        ensemble_statistics(ensemble, {"v": normal(5)})
    with pytest.raises(EnsembleError, match="expected levels from 0 to 1"):
        ensemble_statistics(ensemble, quantiles=(5, 95))


def test_the_truth_is_read_in_pieces_from_a_file(ensemble: Path) -> None:
    truth = normal(4, 6, seed=1)
    with h5py.File(ensemble.parent / "truth.h5", "w") as file:
        file["u"] = truth
        found = ensemble_statistics(ensemble, {"u": file["u"]})
    assert found.identical(ensemble_statistics(ensemble, {"u": truth}))


@given(arrays(np.float64, (3, 7), elements=st.floats(-1e300, 1e300)), st.floats(0, 1))
def test_quantiles_lie_between_members_and_equal_numpy(x: np.ndarray, level: float) -> None:
    x.sort(axis=-1)
    (found,) = quantiles_of_sorted(x, [level])
    assert np.all((found >= x[:, 0]) & (found <= x[:, -1]))
    np.testing.assert_allclose(found, np.quantile(x, level, axis=-1), rtol=1e-12, atol=1e-300)


def test_ties_are_broken_evenly() -> None:
    draws = (np.arange(40_000) + 0.5) / 40_000
    found = ranks(np.zeros((40_000, 3)), np.zeros(40_000), draws)
    np.testing.assert_array_equal(np.bincount(found), [10_000] * 4)


_MIB = 2**20
_LIMIT = 256
_LARGE = {
    "in pieces": "from pipelines.statistics import ensemble_statistics\n"
    "found = ensemble_statistics(path, {'u': truth}, out=path.parent / 'statistics.zarr', "
    "memory=2**24)\n"
    "print(float(found.u_mean[0, 0]), float(found.u_crps))",
    "for the page": "from pipelines.ensemble import read_layout\n"
    "from pipelines.statistics import summarize\n"
    "found = summarize(read_layout(path), {'u': truth}, memory=2**24)['arrays']['u']\n"
    "print(found['map']['mean'][0][0], found['crps'])",
    "at once": "import zarr; print(zarr.open_array(path / 'u')[:].mean())",
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble larger than the memory that its statistics will have: 24 members of 12 MiB."""
    path = tmp_path_factory.mktemp("large") / "ensemble.zarr"
    spec = ArraySpec("u", (12, _MIB // 4), ("time", "x"))
    create_ensemble(path, 24, [spec], ATTRIBUTES)
    for member in range(24):
        values = np.full(spec.shape, member, np.float32)
        write_member(path, member, {"u": values}, ATTRIBUTES, fence=1)
    collect(path)
    return path


@pytest.mark.parametrize("way", _LARGE)
def test_an_ensemble_larger_than_its_cgroup(large: Path, way: str) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "path = Path(sys.argv[1]); truth = np.zeros((12, 2**18), np.float32)\n" + _LARGE[way]
    )
    done = run_limited([sys.executable, "-c", code, str(large)], _LIMIT)
    if way == "at once":
        assert done.returncode == -9 or "MemoryError" in done.stderr
        assert done.stdout == ""
    else:
        assert done.returncode == 0, done.stderr
        mean, score = map(float, done.stdout.split())
        assert mean == 11.5
        assert score == pytest.approx(crps(np.arange(24.0), 0.0))
