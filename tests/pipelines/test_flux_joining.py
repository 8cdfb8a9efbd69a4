"""Towers side by side, sealed and read again; units that cannot be; what needs no network."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.towers import save_tower, spoil, tower_table

from pipelines.fluxes import (
    FLUXNET_USTAR50,
    FluxError,
    FluxRecords,
    Measured,
    join_towers,
    read_tower,
    read_towers,
    split_dates,
    write_towers,
)
from pipelines.fluxes.forecasts import climatology, lagged, persistence, seasonal_cycle
from pipelines.fluxes.regression import QuadraticRidge


def measured(
    table: pd.DataFrame, directory: Path, site: str = "XX-Abc", **static: float
) -> Measured:
    path = save_tower(table, directory / f"{site}.csv")
    return read_tower(path, site, static or {"latitude": 47.0}, FLUXNET_USTAR50)


def test_towers_keep_their_days_and_what_they_share(tmp_path: Path) -> None:
    short = tower_table("2016-02-20", "2016-03-10", seed=2).assign(P_F=1.0)
    one, two = measured(tower_table(), tmp_path), measured(short, tmp_path, "XX-Def")
    joined = join_towers([one, two])
    assert joined.sites == ("XX-Abc", "XX-Def")
    assert (str(joined.days[0]), str(joined.days[-1])) == ("2015-01-01", "2017-12-31")
    assert joined.dynamic_names == one.records.dynamic_names
    np.testing.assert_array_equal(joined.fluxes[0], one.records.fluxes[0])
    there = np.isfinite(joined.fluxes[1, :, 0])
    np.testing.assert_array_equal(joined.days[there], two.records.days)
    np.testing.assert_array_equal(joined.fluxes[1, there], two.records.fluxes[0])
    assert np.datetime64("2016-02-29") in joined.days[there]
    chosen = join_towers([one, two], ["radiation", "temperature"])
    assert chosen.dynamic_names == ("radiation", "temperature")


def test_days_of_poor_data_are_left_out(tmp_path: Path) -> None:
    tower = measured(tower_table(), tmp_path)
    kept = np.isfinite(join_towers([tower], least_quality=0.5).fluxes[0]).all(axis=-1)
    np.testing.assert_array_equal(kept, tower.quality >= 0.5)
    assert 0.3 < kept.mean() < 0.9


def test_a_store_of_towers_reads_back_to_the_bit(tmp_path: Path) -> None:
    records = join_towers([measured(spoil(tower_table()), tmp_path)])
    path = tmp_path / "towers.zarr"
    for attempt in (1, 2):  # the second finds what the first has left
        write_towers(path, records, {"config_digest": "abc", "seed": 0}, attempt)
    again = read_towers(path)
    for name in FluxRecords.__dataclass_fields__:
        found, expected = getattr(again, name), getattr(records, name)
        if isinstance(expected, tuple):
            assert found == expected
        else:
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(FluxError, match="no Zarr group here; read the towers first"):
        read_towers(tmp_path / "none.zarr")


def test_towers_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one = measured(tower_table(), tmp_path)
    with pytest.raises(FluxError, match="different names, found XX-Abc, XX-Abc"):
        join_towers([one, one])
    other = measured(tower_table(), tmp_path, "XX-Def", elevation=3.0)
    with pytest.raises(FluxError, match="XX-Def: static features elevation, but XX-Abc has lat"):
        join_towers([one, other])
    with pytest.raises(FluxError, match="XX-Abc: no variable soil_water; there are temperature"):
        join_towers([one], ["soil_water"])
    silent = measured(tower_table().drop(columns="NEE_VUT_USTAR50_QC"), tmp_path)
    with pytest.raises(FluxError, match="XX-Abc: its file does not say how good NEE is"):
        join_towers([silent], least_quality=0.5)


@pytest.mark.parametrize(
    ("column", "factor", "offset", "said"),
    [
        ("TA_F", 1, 273.15, "temperature by day .* column in degrees Celsius"),
        ("SW_IN_F", 0.0864, 0, "radiation is .* on the sunniest day, .* column in W m-2"),
        ("SW_IN_F", 10, 0, "radiation by day .* column in W m-2"),
        ("VPD_F", 100, 0, "vapor_deficit by day .* column in hPa"),
        ("VPD_F", 0.1, 0, "vapor_deficit is .* on the driest day, .* column in hPa"),
        ("GPP_NT_VUT_USTAR50", 30, 0, "gpp by day .* gC m-2 d-1 in daily ones"),
    ],
)
def test_other_units_are_told_by_impossible_days(
    column: str, factor: float, offset: float, said: str, tmp_path: Path
) -> None:
    table = tower_table()
    table[column] = factor * table[column] + offset
    table["NEE_VUT_USTAR50"] = table.RECO_NT_VUT_USTAR50 - table.GPP_NT_VUT_USTAR50
    with pytest.raises(FluxError, match=said):
        measured(table, tmp_path)


def test_a_split_by_dates_has_the_days_that_it_says(tmp_path: Path) -> None:
    records = join_towers([measured(tower_table(), tmp_path)])
    split = split_dates(records.sites, records.days, "2016-02-28", "2017-07-01")
    ends = [(str(records.days[part[0]][0]), str(records.days[part[0]][-1])) for part in split]
    assert ends == [
        ("2015-01-01", "2016-02-28"),
        ("2016-02-29", "2017-06-30"),
        ("2017-07-01", "2017-12-31"),
    ]


def test_regression_finds_a_quadratic_and_learns_from_training_days_alone(tmp_path: Path) -> None:
    records = join_towers([measured(spoil(tower_table()), tmp_path)])
    split = split_dates(records.sites, records.days, "2016-06-30", "2017-01-01")
    warmth, light = records.dynamic[..., 0], records.dynamic[..., 1]
    truth = 1 + warmth - 0.02 * warmth * light + 0.1 * light**2
    records.fluxes[...] = np.where(np.isfinite(records.fluxes), truth[..., None], np.nan)
    fitted = QuadraticRidge.fit(records, split.training, penalty=1e-12)
    known = np.isfinite(records.dynamic).all(axis=-1)
    found = fitted.predict(records.dynamic)
    np.testing.assert_allclose(found[known], np.stack([truth[known]] * 3, -1), rtol=1e-6)
    assert np.isnan(found[~known]).all()
    for values in (records.dynamic, records.fluxes):
        values[~split.training] = 1e6
    again = QuadraticRidge.fit(records, split.training, penalty=1e-12)
    np.testing.assert_array_equal(again.weights, fitted.weights)


def test_persistence_in_a_gap_is_what_was_known_last() -> None:
    fluxes: Any = np.arange(12.0).reshape(1, 12, 1)
    fluxes[0, [3, 4]] = np.nan
    where = np.array([[0, 0], [0, 1], [0, 3]])
    found = persistence(fluxes, where, 4, 2)[..., 0]
    np.testing.assert_array_equal(found, [[2, 2], [2, 2], [6, 6]])
    assert np.isnan(persistence(fluxes, np.array([[0, 3]]), 2, 2)).all()
    np.testing.assert_array_equal(lagged(fluxes, 2)[0, :, 0], [*[np.nan] * 2, *fluxes[0, :10, 0]])


def test_a_gap_of_one_flux_leaves_the_season_of_the_others(tmp_path: Path) -> None:
    records = join_towers([measured(tower_table(), tmp_path)])
    training = np.ones((1, len(records.days)), bool)
    before = climatology(records, training)
    records.fluxes[0, 100:140, 0] = np.nan
    after = climatology(records, training)
    np.testing.assert_array_equal(after[..., 1:], before[..., 1:])
    assert np.isfinite(after).all()
    assert np.isnan(seasonal_cycle(records.fluxes, records.days, ~training)).all()
