"""Towers' files made into days: the same from any format, with every gap in the report."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.fluxes import FLUXNET, FLUXNET_USTAR50, FluxError, read_davos, read_tower
from pipelines.fluxes.columns import CH_DAV, OPTIONAL
from pipelines.fluxes.daily import fill_short_gaps
from pipelines.fluxes.eddy import Measured

STATIC = {"latitude": 47.0}
NUMBERS = ("TA_F", "SW_IN_F", "VPD_F", "P_F", "NEE_VUT_REF", "GPP_NT_VUT_REF", "RECO_NT_VUT_REF")


def half_hours(start: str = "2016-02-27", days: int = 4) -> pd.DataFrame:
    """Half-hours of a tower, over the leap day of 2016, indexed by their starts."""
    index = pd.date_range(start, periods=48 * days, freq="30min")
    rng = np.random.default_rng(1)
    hour = np.arange(len(index)) % 48 / 2
    light = np.maximum(0, 500 * np.sin((hour - 6) / 12 * np.pi))
    noise = rng.normal(size=(4, len(index)))
    reco, gpp = 3 + 0.2 * noise[0], 0.02 * light + 0.1 * noise[1]
    table = pd.DataFrame(
        {
            "TA_F": 4 + 5 * np.sin((hour - 8) / 12 * np.pi) + noise[2],
            "SW_IN_F": light,
            "VPD_F": 3 + np.abs(noise[3]),
            "P_F": (rng.random(len(index)) < 0.1) * 0.4,
            "NEE_VUT_REF": reco - gpp,
            "GPP_NT_VUT_REF": gpp,
            "RECO_NT_VUT_REF": reco,
            "NEE_VUT_REF_QC": rng.integers(0, 4, len(index)),
        },
        index=index,
    )
    return table.round(4)


def save(table: pd.DataFrame, path: Path) -> Path:
    """As FLUXNET does: digits for times, -9999 for what is missing."""
    rows = table.fillna(-9999)
    rows.insert(0, "TIMESTAMP_START", table.index.strftime("%Y%m%d%H%M"))
    rows.insert(1, "TIMESTAMP_END", (table.index + pd.Timedelta("30min")).strftime("%Y%m%d%H%M"))
    rows.to_csv(path, index=False)
    return path


def read(table: pd.DataFrame, directory: Path, **options: Any) -> Measured:
    return read_tower(save(table, directory / "tower.csv"), "XX-Abc", STATIC, **options)


def test_days_are_those_of_pandas_in_daily_units(tmp_path: Path) -> None:
    table = half_hours()
    found = read(table, tmp_path)
    by_day = table.resample("D")
    mean, records = by_day.mean(), found.records
    expected = {
        "temperature": mean.TA_F,
        "temperature_min": by_day.TA_F.min(),
        "temperature_max": by_day.TA_F.max(),
        "radiation": mean.SW_IN_F * 0.0864,
        "vapor_deficit": mean.VPD_F,
        "precipitation": by_day.P_F.sum(),
    }
    for name, values in expected.items():
        column = records.dynamic[0, :, records.dynamic_names.index(name)]
        np.testing.assert_allclose(column, values, rtol=1e-12, atol=1e-12)
    grams = mean[["GPP_NT_VUT_REF", "RECO_NT_VUT_REF", "NEE_VUT_REF"]] * 12.011e-6 * 86400
    np.testing.assert_allclose(records.fluxes[0], grams, rtol=1e-12)
    np.testing.assert_allclose(found.quality, (table.NEE_VUT_REF_QC <= 1).resample("D").mean())
    assert [str(day) for day in records.days] == [
        "2016-02-27",
        "2016-02-28",
        "2016-02-29",
        "2016-03-01",
    ]
    assert (found.findings.leap_days, found.findings.leap_days_lost) == (1, 0)
    assert found.findings.partition_error <= 1e-3
    assert found.findings.notes == ()


def as_parquet(table: pd.DataFrame, path: Path) -> Path:
    table.rename_axis("TIMESTAMP_START").to_parquet(path)
    return path


def as_netcdf3(table: pd.DataFrame, path: Path) -> Path:
    data = xarray.Dataset.from_dataframe(table.rename_axis("time"))
    packed = {"TA_F": {"dtype": "i4", "scale_factor": 1e-4, "_FillValue": -9999}}
    data.to_netcdf(path, engine="scipy", encoding=packed)
    return path


def as_netcdf4(table: pd.DataFrame, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        minutes = (table.index - table.index[0]) / pd.Timedelta("1min")
        file["time"] = np.asarray(minutes)
        file["time"].attrs["units"] = f"minutes since {table.index[0]}"
        for name in table:
            file[str(name)] = table[name].fillna(-9999).to_numpy()[:, None, None]
        file["lat"] = [47.0]
    return path


@pytest.mark.parametrize(
    ("writer", "suffix"), [(as_parquet, "parquet"), (as_netcdf3, "nc"), (as_netcdf4, "nc")]
)
def test_every_format_gives_the_same_days(writer: Any, suffix: str, tmp_path: Path) -> None:
    table = half_hours()
    table.loc["2016-02-28 03:00":"2016-02-28 04:00", "TA_F"] = np.nan
    expected = read(table, tmp_path)
    found = read_tower(writer(table, tmp_path / f"tower.{suffix}"), "XX-Abc", STATIC)
    np.testing.assert_allclose(found.records.dynamic, expected.records.dynamic, rtol=1e-12)
    np.testing.assert_array_equal(found.records.fluxes, expected.records.fluxes)
    np.testing.assert_array_equal(found.records.days, expected.records.days)
    assert found.findings.variables == expected.findings.variables


def test_times_mean_the_same_by_any_label(tmp_path: Path) -> None:
    table, expected = half_hours(), read(half_hours(), tmp_path)
    for offset, label, column in (("15min", "middle", "MIDDLE"), ("30min", "end", "END")):
        moved = table.set_index(table.index + pd.Timedelta(offset))
        moved.index = moved.index.strftime("%Y-%m-%d %H:%M:%S").rename(f"TIMESTAMP_{column}")
        moved.to_csv(tmp_path / f"{label}.csv")
        found = read_tower(tmp_path / f"{label}.csv", "XX-Abc", STATIC)
        np.testing.assert_array_equal(found.records.fluxes, expected.records.fluxes)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999))
def test_order_and_repetition_of_rows_do_not_matter(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("towers")
    rng, table = np.random.default_rng(seed), half_hours()
    expected = read(table, directory)
    twice = table.iloc[rng.integers(0, len(table), 7)]
    found = read(pd.concat([table, twice]).sample(frac=1, random_state=seed), directory)
    np.testing.assert_array_equal(found.records.fluxes, expected.records.fluxes)
    assert found.findings.duplicated == 7
    assert found.findings.missing == 0


def test_short_gaps_are_filled_long_ones_lose_the_day_and_all_is_reported(tmp_path: Path) -> None:
    table = half_hours()
    whole = read(table, tmp_path)
    table.iloc[60:64, table.columns.get_loc("TA_F")] = np.nan
    table.iloc[110:115, table.columns.get_loc("SW_IN_F")] = np.nan
    table.iloc[10, table.columns.get_loc("P_F")] = np.nan
    found = read(table, tmp_path)
    names = found.records.dynamic_names
    lost = {name: np.isnan(found.records.dynamic[0, :, i]) for i, name in enumerate(names)}
    assert not lost["temperature"].any()
    assert lost["radiation"].tolist() == [False, False, True, False]
    assert lost["precipitation"].tolist() == [True, False, False, False]
    assert found.findings.variables["temperature"] == (4, 4, 0)
    assert found.findings.variables["radiation"] == (5, 0, 1)
    assert found.findings.variables["precipitation"] == (1, 0, 1)
    np.testing.assert_array_equal(found.records.fluxes, whole.records.fluxes)
    assert "radiation: 5 steps missing, 0 filled, 1 days lost" in found.findings.lines()


def test_absent_rows_leave_a_day_unknown_not_out(tmp_path: Path) -> None:
    table = half_hours()
    kept = table[table.index.strftime("%m-%d") != "02-29"]
    found = read(kept, tmp_path)
    assert len(found.records.days) == 4
    assert np.isnan(found.records.fluxes[0, :, 0]).tolist() == [False, False, True, False]
    assert (found.findings.missing, found.findings.leap_days_lost) == (48, 1)
    partial = read(table.iloc[:-10], tmp_path)
    assert np.isnan(partial.records.fluxes[0, :, 0]).tolist() == [False, False, False, True]


def test_what_is_known_depends_on_what_is_selected(tmp_path: Path) -> None:
    table = half_hours()
    table.iloc[:24, table.columns.get_loc("P_F")] = np.nan
    records = read(table, tmp_path).records
    assert records.known().tolist() == [[False, True, True, True]]
    chosen = records.select(["radiation", "temperature"], ["nee"])
    assert chosen.known().all()
    np.testing.assert_array_equal(chosen.dynamic[..., 1], records.dynamic[..., 0])
    np.testing.assert_array_equal(chosen.fluxes[..., 0], records.fluxes[..., 2])
    with pytest.raises(FluxError, match="no variable rain; there are temperature, "):
        records.select(["rain"], ["nee"])


def test_gaps_at_the_ends_are_not_invented() -> None:
    values = np.array([[np.nan, 1.0, np.nan, 3.0, np.nan, np.nan, 6.0, np.nan]])
    filled = fill_short_gaps(values, 1)
    np.testing.assert_array_equal(filled.values[0, 1:4], [1, 2, 3])
    assert np.isnan(filled.values).sum() == 4
    assert (filled.missing, filled.filled, filled.lost_days) == (5, 1, 1)


def test_other_time_zones_are_noticed_and_shifted(tmp_path: Path) -> None:
    table = half_hours(days=6)
    moved = table.set_index(table.index - pd.Timedelta("5h"))
    found = read(moved, tmp_path)
    assert found.findings.noon == pytest.approx(7.0, abs=0.3)
    assert "the times are not local; give shift_hours" in found.findings.notes[0]
    back = read(moved, tmp_path, shift_hours=5)
    np.testing.assert_array_equal(back.records.fluxes, read(table, tmp_path).records.fluxes)
    assert back.findings.notes == ()


def test_daylight_saving_is_noticed_or_undone_where_offsets_are_given(tmp_path: Path) -> None:
    table = half_hours("2016-03-01", 260)
    zoned = table.index.tz_localize("+01:00").tz_convert("Europe/Zurich")
    naive = table.set_index(zoned.tz_localize(None))
    assert any("daylight saving" in note for note in read(naive, tmp_path).findings.notes)
    stamped = table.reset_index(drop=True)
    stamped.insert(0, "TIMESTAMP_START", [moment.isoformat() for moment in zoned])
    stamped.to_csv(tmp_path / "zoned.csv", index=False)
    found = read_tower(tmp_path / "zoned.csv", "XX-Abc", STATIC)
    np.testing.assert_array_equal(found.records.fluxes, read(table, tmp_path).records.fluxes)
    assert found.findings.notes == ()


def test_daily_files_are_taken_as_they_are(tmp_path: Path) -> None:
    daily = half_hours().resample("D").mean().rename_axis("TIMESTAMP")
    daily["GPP_NT_VUT_REF"] = daily.RECO_NT_VUT_REF - daily.NEE_VUT_REF
    daily.index = daily.index.strftime("%Y%m%d")
    daily.drop(columns=["P_F", "NEE_VUT_REF_QC"]).to_csv(tmp_path / "daily.csv")
    found = read_tower(tmp_path / "daily.csv", "XX-Abc", STATIC)
    np.testing.assert_allclose(found.records.fluxes[0, :, 0], daily.GPP_NT_VUT_REF, rtol=1e-12)
    assert found.findings.absent == OPTIONAL
    assert np.isnan(found.quality).all()
    names = found.records.dynamic_names
    assert "temperature_min" not in names
    assert "precipitation" not in names


def broken(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table with one thing wrong."""
    if name == "column":
        return table.drop(columns=["NEE_VUT_REF", "TA_F"])
    if name == "product":
        return table.assign(GPP_NT_VUT_REF=table.GPP_NT_VUT_REF + 0.1)
    if name == "text":
        return table.assign(TA_F=["warm" if i == 5 else "3" for i in range(len(table))])
    if name == "empty":
        return table.assign(NEE_VUT_REF=np.nan)
    return table.set_index(table.index + pd.to_timedelta(np.arange(len(table)) % 7, "min"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("column", r"no column TA_F \(temperature\), NEE_VUT_REF \(nee\).*`renamed`"),
        ("product", "GPP differs from RECO - NEE by up to 0.1.*not of one night-partitioned"),
        ("text", "column TA_F, row 6: expected a number, found 'warm'"),
        ("empty", "never there together"),
        ("times", "expected rows every half hour|on no grid"),
    ],
)
def test_what_is_wrong_is_said(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FluxError, match=message):
        read(broken(name, half_hours()), tmp_path, columns=replace(FLUXNET, additive=True))


def test_reference_columns_need_not_add_up_but_it_is_noted(tmp_path: Path) -> None:
    found = read(broken("product", half_hours()), tmp_path)
    assert found.findings.partition_error == pytest.approx(0.1, abs=1e-3)
    assert "do not add up" in found.findings.notes[0]
    named = half_hours().rename(columns=lambda name: name.replace("VUT_REF", "VUT_USTAR50"))
    assert read(named, tmp_path, columns=FLUXNET_USTAR50).findings.notes == ()


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.txt", "", "expected one of .csv"),
        ("a.csv", "", "no column TA_F"),
        ("c.csv", f"TIMESTAMP_START,{','.join(NUMBERS)}\n", "found none"),
        ("b.csv", f"TIMESTAMP_START,{','.join(NUMBERS)}\n201601010000,1\n", "found 2 in row 1"),
        ("a.parquet", "no", "not a Parquet file"),
        ("a.nc", "no", "not a NetCDF file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(FluxError, match=message):
            read_tower(tmp_path / name, "XX-Abc", STATIC)
    with pytest.raises(FluxError, match="no such file"):
        read_tower(tmp_path / "absent.csv", "XX-Abc", STATIC)
    table = half_hours().assign(other=half_hours().NEE_VUT_REF).drop(columns="NEE_VUT_REF")
    assert read(table, tmp_path, renamed={"nee": "other"}).findings.days == 4
    with pytest.raises(FluxError, match="no meaning NEE"):
        read(table, tmp_path, renamed={"NEE": "other"})


def as_diive(table: pd.DataFrame) -> pd.DataFrame:
    """Under the names of CH-DAV, with the quarter hours that diive writes."""
    names = dict(zip(NUMBERS, [getattr(CH_DAV, what) for what in
        ("temperature", "radiation", "vapor_deficit", "precipitation", "nee", "gpp", "reco")],
        strict=True))  # fmt: skip
    renamed = table.rename(columns=names).assign(
        NEE_CUT_REF_orig=table.NEE_VUT_REF.where(table.NEE_VUT_REF_QC == 0),
        GPP_DT_CUT_REF=1.1 * table.GPP_NT_VUT_REF,
        Reco_DT_CUT_REF=1.1 * table.RECO_NT_VUT_REF,
    )
    renamed.index = (table.index + pd.Timedelta("15min")).rename("TIMESTAMP_MIDDLE")
    return renamed


def test_davos_is_found_in_diive_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nowhere:
        nowhere.setattr(sys, "path", [])
        with pytest.raises(FluxError, match="diive, which is not installed"):
            read_davos()
    name = "diive/data/exampledata_PARQUET_CH-DAV_FP2022.5_2013-2022_30MIN.parquet"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / "diive" / "__init__.py").write_text("raise ImportError('imported')")
    as_diive(half_hours()).to_parquet(tmp_path / name)
    information = tmp_path / "diive-0.90.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: diive\nVersion: 0.90.0\n")
    (information / "RECORD").write_text(f"diive/__init__.py,,\n{name},,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found, expected = read_davos(), read(half_hours(), tmp_path)
    np.testing.assert_array_equal(found.records.fluxes, expected.records.fluxes)
    share = (half_hours().NEE_VUT_REF_QC == 0).resample("D").mean()
    np.testing.assert_allclose(found.quality, share)
    by_day = read_davos(partitioning="day").records.fluxes
    np.testing.assert_allclose(by_day[..., :2], 1.1 * expected.records.fluxes[..., :2], rtol=1e-9)
    assert "diive" not in sys.modules
