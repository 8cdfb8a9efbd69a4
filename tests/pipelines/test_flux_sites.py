"""Simulated sites: the same alone and in company, whole on the disk, split without leaks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ensemble import collect, verify
from pipelines.fluxes import (
    FluxError,
    FluxRecords,
    Normalizer,
    SimulatedSites,
    SiteRun,
    Split,
    plan_sites,
    read_sites,
    simulate_sites,
    split_sites,
    split_time,
    split_warm_sites,
    windows,
    write_sites,
)
from pipelines.fluxes.properties import CLIMATE, PARAMETERS, draw_properties, draw_shocks

RUN = SiteRun(seed=3, sites=12, years=1, first_year=2004)
DIGEST = {"config_digest": "c0ffee"}


@pytest.fixture(scope="module")
def every() -> SimulatedSites:
    return simulate_sites(RUN, range(12))


def test_a_site_is_the_same_to_the_bit_whatever_else_is_made(every: SimulatedSites) -> None:
    other = SiteRun(seed=3, sites=500, years=1, first_year=2004)
    for few in ([7], [11, 2, 5]):
        alone = simulate_sites(other, few)
        for name in ("dynamic", "static", "fluxes"):
            expected = getattr(every.records, name)[few]
            np.testing.assert_array_equal(getattr(alone.records, name), expected)
        np.testing.assert_array_equal(alone.pools, every.pools[few])
    assert every.draws.max() > 0  # or no redraw would have been among them
    assert not np.array_equal(simulate_sites(SiteRun(4, 1, 1, 2004), [0]).pools, every.pools[:1])


def test_the_weather_of_a_longer_run_begins_alike() -> None:
    short, long = draw_shocks(3, 7, 3, 100), draw_shocks(3, 7, 3, 400)
    np.testing.assert_array_equal(short, long[:, :100])
    off_diagonal = np.corrcoef(long) - np.eye(3)
    assert np.abs(off_diagonal).max() < 0.2


def test_records_obey_the_laws_and_lie_in_the_documented_ranges(every: SimulatedSites) -> None:
    made = every
    gpp, npp, nep, rh = np.moveaxis(made.records.fluxes, -1, 0)
    np.testing.assert_allclose(np.diff(made.pools.sum(-1), axis=1), nep, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(nep, npp - rh)
    assert min(gpp.min(), rh.min(), made.pools.min()) >= 0
    assert len(made.records.days) == 366
    assert all(np.isfinite(v).all() for v in (made.records.static, made.records.dynamic))
    properties = draw_properties(RUN.seed, range(400), [0] * 400)
    for name in set(PARAMETERS) - {"onset_day", "fall_day", "leaf_mass"}:
        values = getattr(properties.parameters, name)
        assert PARAMETERS[name].low <= values.min() < values.max() <= PARAMETERS[name].high
    assert properties.parameters.leaf_mass.max() <= 200
    np.testing.assert_allclose(
        np.quantile(properties.climate.latitude, 0.5), CLIMATE["latitude"].at(np.array(0.5)), atol=8
    )


def test_static_features_decide_the_fluxes() -> None:
    """Sites of like features have like fluxes: nothing that matters is kept from a model."""
    made = simulate_sites(SiteRun(1, 120, 1), range(120))
    records = made.records
    x = (records.static - records.static.mean(0)) / records.static.std(0)
    y = np.log(records.fluxes[..., 3].mean(axis=1))
    x = np.concatenate([x, np.ones((120, 1))], axis=1)
    weights = np.linalg.lstsq(x[:90], y[:90])[0]
    residual = y[90:] - x[90:] @ weights
    assert 1 - residual.var() / y[90:].var() > 0.8


def test_shards_are_one_store_whoever_writes_them_and_however_often(
    tmp_path: Path, every: SimulatedSites
) -> None:
    path = tmp_path / "sites.zarr"
    for _ in range(2):
        plan_sites(path, RUN, shards=3, config_digest="c0ffee")
    for shard in (2, 0, 1):
        first = write_sites(path, RUN, shard, DIGEST, fence=1)
    assert write_sites(path, RUN, 1, DIGEST, fence=2).shards == first.shards
    with pytest.raises(FluxError, match="not sealed"):
        read_sites(path)
    collect(path)
    assert verify(path).complete
    found, expected = read_sites(path), every.records
    assert found.sites == expected.sites
    for name in ("days", "dynamic", "static", "fluxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_store_refuses_another_run_and_unequal_shards(tmp_path: Path) -> None:
    path = tmp_path / "sites.zarr"
    with pytest.raises(FluxError, match="12 sites in 5 shards"):
        plan_sites(path, RUN, 5, "c0ffee")
    with pytest.raises(FluxError, match="plan the sites first"):
        read_sites(path)
    plan_sites(path, RUN, 3, "c0ffee")
    with pytest.raises(FluxError, match="planned for"):
        write_sites(path, SiteRun(4, 12, 1, 2004), 0, DIGEST, 1)
    with pytest.raises(FluxError, match="expected sites of 0 to 11"):
        simulate_sites(RUN, [12])


SITES = tuple(f"s{i}" for i in range(20))
DAYS = np.arange(np.datetime64("2003-01-01"), np.datetime64("2006-01-01"))


def splits() -> dict[str, Split]:
    return {
        "sites": split_sites(SITES, DAYS, (0.2, 0.25), seed=1),
        "time": split_time(SITES, DAYS, "2004-07-01", "2005-01-01"),
        "warm": split_warm_sites(SITES, DAYS, (0.2, 0.25), "2004-01-01", seed=1),
    }


def test_splits_are_disjoint_and_mean_what_they_say() -> None:
    found = splits()
    for split in found.values():
        assert (np.sum(split, axis=0) <= 1).all()
        assert all(part.any() for part in split)
    cold, warm = found["sites"], found["warm"]
    assert [int(part.any(axis=1).sum()) for part in cold] == [11, 4, 5]
    assert all((part.all(axis=1) == part.any(axis=1)).all() for part in cold)
    late = np.asarray(np.datetime64("2004-01-01") <= DAYS)
    np.testing.assert_array_equal(warm.test, cold.test & late)
    np.testing.assert_array_equal(warm.training, cold.training | ~late)
    last = np.asarray(np.datetime64("2005-01-01") <= DAYS)
    np.testing.assert_array_equal(found["time"].test, np.outer(np.ones(len(SITES), bool), last))


def test_the_split_of_a_site_depends_on_its_name_alone() -> None:
    here = split_sites(SITES, DAYS, (0.2, 0.25), seed=1).test.any(axis=1)
    there = split_sites(SITES[::-1], DAYS, (0.2, 0.25), seed=1).test.any(axis=1)
    np.testing.assert_array_equal(here, np.flip(there))
    with pytest.raises(FluxError, match="leave none for training"):
        split_sites(SITES, DAYS, (0.5, 0.5), seed=1)
    with pytest.raises(FluxError, match="leaves a part empty"):
        split_time(SITES, DAYS, "2004-01-01", "2010-01-01")
    with pytest.raises(FluxError, match="is not inside"):
        split_warm_sites(SITES, DAYS, (0.2, 0.2), "2010-01-01", 0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    context=st.integers(0, 9),
    horizon=st.integers(1, 9),
    stride=st.integers(1, 4),
)
def test_windows_are_all_those_that_fit(seed: int, context: int, horizon: int, stride: int) -> None:
    mask = np.random.default_rng(seed).random((2, 60)) < 0.93
    mask[:, 20:40] = True
    expected = [
        [site, start]
        for site in range(2)
        for start in range(0, 60 - context - horizon + 1, stride)
        if mask[site, start : start + context + horizon].all()
    ]
    assert windows(mask, context, horizon, stride).tolist() == expected
    looser = windows(mask, context, horizon, stride, known=np.ones_like(mask))
    assert {tuple(w) for w in expected} <= {tuple(w) for w in looser.tolist()}


def test_windows_say_when_none_fits() -> None:
    with pytest.raises(FluxError, match=r"no window of 40 \+ 30 days"):
        windows(np.ones((2, 60), bool), 40, 30, 1)


def noise(sites: tuple[str, ...]) -> FluxRecords:
    """Records of the right form, with nothing in them."""
    rng = np.random.default_rng(0)
    shapes = ((len(sites), len(DAYS), 3), (len(sites), 2), (len(sites), len(DAYS), 2))
    dynamic, static, fluxes = (rng.normal(5, 3, shape) for shape in shapes)
    names = (("light", "warmth", "air"), ("clay", "height"), ("gpp", "rh"))
    return FluxRecords(sites, DAYS, dynamic, static, fluxes, *names)


@pytest.mark.parametrize("kind", ["sites", "time", "warm"])
def test_the_normalizer_sees_training_alone(kind: str, tmp_path: Path) -> None:
    made = noise(SITES)
    split = splits()[kind]
    fitted = Normalizer.fit(made, split.training)
    made.fluxes[~split.training] = 1e6
    made.dynamic[~split.training] = np.nan
    made.static[~split.training.any(axis=1)] = -1e6
    assert Normalizer.fit(made, split.training) == fitted
    fitted.save(tmp_path / "normalizer.json")
    assert Normalizer.load(tmp_path / "normalizer.json") == fitted
    seen = fitted.fluxes.apply(made.fluxes)[split.training]
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(seen.std(axis=0), 1, rtol=1e-12)
    back = fitted.fluxes.invert(seen)
    np.testing.assert_allclose(back, made.fluxes[split.training], rtol=0, atol=1e-12)


def test_a_normalizer_refuses_what_it_cannot_scale(tmp_path: Path) -> None:
    records = noise(("only",))
    mask = np.ones((1, len(DAYS)), bool)
    assert set(Normalizer.fit(records, mask).static.deviation) == {1.0}
    records.dynamic[..., 0] = np.nan
    with pytest.raises(FluxError, match="light: no value in the training split"):
        Normalizer.fit(records, mask)
    with pytest.raises(FluxError, match="expected a mask"):
        Normalizer.fit(records, mask[:, :9])
    (tmp_path / "torn.json").write_text('{"dynamic": ')
    with pytest.raises(FluxError, match="not a normalizer"):
        Normalizer.load(tmp_path / "torn.json")
