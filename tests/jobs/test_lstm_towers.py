"""The LSTM job on towers: gaps, dates, what is compared, and faults."""

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.comparison import differences
from support.faults import run_until, train_under_fire
from support.lstm_job import lstm_plan, resolved
from support.towers import save_tower, spoil, tower_table

from benchmarks.towers import lines
from cluster.calls import Call
from cluster.stage import Stage
from jobs.collecting import stored
from jobs.launch import StageFailedError
from jobs.lstm.config import LstmConfig, stages
from jobs.lstm.evaluation import free_run, with_baseline
from jobs.lstm.samples import Samples
from jobs.lstm.sites import read_records
from jobs.lstm.training import Forecasting, scaled_errors, train, untrained
from kernels.lstm import AnomalyHead, StaticDynamicLSTM, mass_residual
from pipelines.config import with_values
from pipelines.fluxes.forecasts import climatology, cut, forecast_windows
from pipelines.fluxes.scores import nse
from pipelines.plan import Plan
from pipelines.report import load_sections

torch.set_num_threads(1)

OVERRIDES = (
    "split={kind: dates, train_until: 2016-06-30, test_from: 2017-05-01}",
    "windows={context: 15, horizon: 10, stride: 10}",
    "network={variant: none, initial_state: false}",
    "network={head: exchange, head_hidden: 0, site_levels: false}",
    "forcing={decay: constant, ratio: 0.0}",
    "evaluation={horizon: 12, batch: 16, validation: 8, sites: 1, drift_years: 0}",
    "sweep.network={variant: [none], autoregressive: [false, true]}",
)


def towers(directory: Path, table: Any = None) -> tuple[str, ...]:
    """Overrides of a job on one tower, whose file is made up."""
    path = save_tower(spoil(tower_table()) if table is None else table, directory / "tower.csv")
    tower = {"site": "XX-Abc", "path": str(path), "static": {"latitude": 47.0}}
    return (*OVERRIDES, f"data={json.dumps({'source': 'towers', 'towers': [tower]})}")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A whole run on a tower whose file is gone once it is prepared."""
    directory = tmp_path_factory.mktemp("towers")
    made = lstm_plan(directory, *towers(directory))
    run_until(made, "inline", "prepare")
    (directory / "tower.csv").unlink()
    run_until(made, "inline", "collect")
    return made


def config_of(plan: Plan) -> LstmConfig:
    assert isinstance(plan.config, LstmConfig)
    return plan.config


def samples_of(plan: Plan, member: int = 0) -> Samples:
    config = config_of(plan)
    return Samples(config.member_config(member), read_records(config, plan.directory))


def test_towers_are_read_once_and_no_sites_are_simulated(plan: Plan) -> None:
    assert [stage.name for stage in stages(config_of(plan))] == ["prepare", "train", "collect"]
    samples = samples_of(plan)
    assert samples.records.sites == ("XX-Abc",)
    assert len(samples.records.days) == 1096
    commits = list((plan.directory / "data").rglob("*.json"))
    told = next(text for path in commits for text in [path.read_text()] if "findings" in text)
    assert "0 of 1 leap days lost" in told
    assert "sha256" in told


def test_predictions_are_of_test_days_add_up_and_are_there_in_gaps(plan: Plan) -> None:
    for member in range(4):
        samples = samples_of(plan, member)
        predicted = stored(plan.directory, "predictions", member)
        known = np.isfinite(predicted).all(axis=-1)
        assert not (known & ~samples.split.test).any()
        gaps = np.isnan(samples.records.fluxes).any(axis=-1)
        assert (known & gaps).any()
        gpp, reco, nee = np.moveaxis(predicted[known], -1, 0)
        np.testing.assert_array_equal(nee, reco - gpp)
        assert min(gpp.min(), reco.min()) >= 0
        assert stored(plan.directory, "mass_residual", member) == 0


def test_teacher_forced_scores_are_of_autoregressive_networks_alone(plan: Plan) -> None:
    for member in range(4):
        forced = stored(plan.directory, "teacher_forced", member)
        hears = config_of(plan).member_config(member).network.autoregressive
        assert np.isfinite(forced).all() == hears
        free = stored(plan.directory, "scores", member)[0]
        assert not np.array_equal(forced, free)


def test_what_is_in_a_gap_moves_no_error(plan: Plan) -> None:
    samples = samples_of(plan)
    records = samples.records
    gaps = np.argwhere(np.isnan(records.fluxes[0, :, 0]) & samples.split.training[0])[:, 0]
    where = np.array([[0, gaps[0] - 20], [0, gaps[-1] - 15]])
    before = samples.batch(where, 10)
    assert not before.known.all()
    assert torch.isfinite(before.fluxes).all()
    assert torch.isfinite(before.dynamic).all()
    outputs = torch.zeros(2, 10, 3)
    errors = scaled_errors(outputs, before, 15)
    samples._fluxes[~samples._known] = 1e6
    after = samples.batch(where, 10)
    assert torch.equal(scaled_errors(outputs, after, 15), errors)
    scaled = (after.fluxes[:, 15:] / after.deviation[:, None]).square()
    expected = [float(scaled[n][after.known[n, 15:]].mean()) for n in range(2)]
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


def test_training_days_alone_decide_scales_and_what_stands_in_gaps(plan: Plan) -> None:
    config, one = config_of(plan), samples_of(plan)
    other = read_records(config, plan.directory)
    for values in (other.dynamic, other.fluxes):
        values[~one.split.training] *= 100
    two = Samples(one.config, other)
    assert two.normalizer == one.normalizer
    training = one.split.training
    np.testing.assert_array_equal(two.dynamic[training], one.dynamic[training])
    gaps = np.isnan(one.records.fluxes)
    np.testing.assert_array_equal(two._fluxes[gaps], one._fluxes[gaps])


def test_a_network_that_corrects_nothing_forecasts_the_regression(plan: Plan) -> None:
    config, records = config_of(plan), read_records(config_of(plan), plan.directory)
    mine = with_values(config.member_config(0), {"objective.baseline": "regression"})
    samples = Samples(mine, records)
    assert samples.baseline is not None
    np.testing.assert_array_equal(samples.targets.fluxes, records.fluxes - samples.baseline)
    network = untrained(mine, records, samples.normalizer)
    assert isinstance(network.head, AnomalyHead)
    torch.nn.init.zeros_(network.head.linear.weight)
    torch.nn.init.zeros_(network.head.linear.bias)
    where = forecast_windows(samples.split.test, 15, 12)
    fluxes = with_baseline(free_run(network, samples, where)[0], samples, where)
    expected = cut(samples.baseline, where, 15, 12)
    np.testing.assert_allclose(fluxes, expected, rtol=1e-4, atol=1e-4)
    assert not mass_residual(fluxes).any()


def test_windows_without_any_flux_are_not_drawn(plan: Plan) -> None:
    samples = samples_of(plan)
    start = int(np.isnan(samples.records.fluxes[0, :, 0]).argmax())
    samples.records.fluxes[0, start : start + 150] = np.nan
    samples = Samples(samples.config, samples.records)
    torch.manual_seed(1)
    network = untrained(samples.config, samples.records, samples.normalizer)
    for _, first in Forecasting(samples, 1, network).windows:
        assert np.isfinite(samples.records.fluxes[0, first + 15 : first + 25]).any()


def test_the_comparison_is_of_the_same_days_and_its_means_are_of_forecasts(plan: Plan) -> None:
    (section,) = (s for s in load_sections(plan.directory) if s.title.startswith("LSTMs"))
    (table,) = (table for table in section.tables if table.title == "Comparison")
    rows = {str(row[1]): [float(str(cell).split()[0]) for cell in row[3:]] for row in table.rows}
    samples = samples_of(plan)
    predicted = [
        np.asarray(stored(plan.directory, "predictions", member), np.float64) for member in range(4)
    ]
    fluxes = samples.records.fluxes
    cycle = climatology(samples.records, samples.split.training)
    cycle[np.isnan(predicted[0])] = np.nan
    expected = {
        "climatology": nse(cycle, fluxes)[0],
        "LSTM, variant none, autoregressive True: mean of 2 networks": nse(
            (predicted[2] + predicted[3]) / 2, fluxes
        )[0],
        "LSTM, variant none, autoregressive False": np.mean(
            [nse(each, fluxes)[0] for each in predicted[:2]], axis=0
        ),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], values, atol=6e-4)
    assert {
        "quadratic regression, daily weather",
        "persistence, held",
        "persistence, 12 days",
    } < set(rows)
    assert "LSTM, variant none, autoregressive True: teacher-forced" in rows
    said = "\n".join(lines(plan.directory, goals=(2.0, -99.0, 0.0)))
    assert "quadratic regression" in said
    assert "missed" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(columns="VPD_F"), "no column VPD_F .vapor_deficit."),
        (lambda table: table.assign(TA_F=table.TA_F + 273.15), "degrees Celsius"),
        (lambda table: table.loc["2017-04-20":], "leaves a part empty"),
        (lambda table: table.loc[:"2017-05-05"], "test: no window of 15 . 12 days"),
    ],
)
def test_what_cannot_be_learned_from_ends_the_run_before_training(
    change: Any, said: str, tmp_path: Path
) -> None:
    plan = lstm_plan(tmp_path, *towers(tmp_path, change(tower_table())))
    with pytest.raises(StageFailedError, match=said):
        run_until(plan, "inline", "prepare")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("network.head=carbon", "network.head=carbon with data.source=towers: expected exch"),
        ("network.site_levels=true", "head=exchange needs site_levels=false and head_hidden=0"),
        ("split.train_until=2017-05-02", "kind=dates needs train_until, and test_from after it"),
        ("data.source=davos", "source=davos with 1 files of towers"),
        ("data.towers=[{site: A, path: a.csv, static: {x: 1.0}}]", "must be an absolute path"),
    ],
)
def test_what_does_not_fit_towers_is_refused(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises((ValidationError, ValueError), match=said):
        resolved(*towers(tmp_path), override)


def test_a_search_on_a_tower_ranks_its_trials_and_compares_their_networks(tmp_path: Path) -> None:
    sweep = "sweep={network: {dropout: {low: 0.0, high: 0.4}}, training: {batch: [8, 4096]}}"
    search = "search={method: adaptive, trials: 4, workers: 1}"
    plan = lstm_plan(tmp_path, *towers(tmp_path), sweep, search, "seeds=1", "training.epochs=1")
    run_until(plan, "inline", "collect")
    trials = json.loads((plan.directory / "report" / "search.json").read_text())["trials"]
    whole = [trial for trial in trials if trial["point"]["training.batch"] == 8]
    assert 0 < len(whole) < 4
    assert [trial["state"] for trial in trials] == [
        "complete" if trial in whole else "failed" for trial in trials
    ]
    for trial in trials:
        predicted = stored(plan.directory, "predictions", trial["number"])
        assert np.isfinite(predicted).any() == (trial in whole)
    tables = {table.title: table for s in load_sections(plan.directory) for table in s.tables}
    assert len(tables["Members"].rows) == len(whole)
    # Seven references, then each network alone and with the regression: no mean of one.
    assert len(tables["Comparison"].rows) == 7 + 2 * len(whole)


def test_a_member_on_a_tower_ends_the_same_whatever_befalls_it(tmp_path: Path) -> None:
    overrides = (*towers(tmp_path), "sweep.network={autoregressive: [true]}", "seeds=1")
    often = ("network.dropout=0.2", "resources.train.checkpoint_seconds=0.1")
    plans = [lstm_plan(tmp_path / name, *overrides, *often) for name in ("twin", "shot")]
    for made in plans:
        run_until(made, "inline", "prepare")
    (tmp_path / "tower.csv").unlink()
    shots = [(random.choice((signal.SIGKILL, signal.SIGTERM)), random.randrange(12), 0.01)]
    run_until(plans[0], "inline", "train")
    fired = (train, StaticDynamicLSTM, plans[1].config, shots)
    run_until(plans[1], "local", "train", [Call(train_under_fire, fired, {"in_tests": True})])
    (member,) = Stage.load(plans[1].directory, "train")
    assert len(member.ledger.attempts()) == 2, shots
    assert differences(plans[1].directory, plans[0].directory) == [], shots
