"""Parts of the LSTM job: what is drawn, heard, scored, and left behind."""

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from support.faults import run_until
from support.lstm_job import lstm_plan, resolved

from jobs.collecting import stored
from jobs.lstm.collection import summarize
from jobs.lstm.config import LstmConfig, Variant
from jobs.lstm.drift import drifted
from jobs.lstm.evaluation import METHODS, SHARES_OF, free_run
from jobs.lstm.samples import Samples
from jobs.lstm.sites import sites_path
from jobs.lstm.training import Forecasting, untrained
from jobs.outputs import weights_path
from pipelines.fluxes import FluxError, FluxRecords, Normalizer, SiteRun, read_sites, simulate_sites
from pipelines.fluxes.scores import SCORES
from pipelines.report import load_sections

torch.set_num_threads(1)


@cache
def records() -> FluxRecords:
    """Eight sites, made when the first test asks for them."""
    return simulate_sites(SiteRun(seed=1, sites=8, years=2), range(8)).records


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, its report included."""
    plan = lstm_plan(tmp_path_factory.mktemp("whole"))
    run_until(plan, "inline", "collect")
    return plan.directory


def objective(*overrides: str, seed: int = 1) -> Forecasting:
    config = resolved(*overrides)
    torch.manual_seed(seed)
    samples = Samples(config, records())
    return Forecasting(samples, seed, untrained(config, samples.records, samples.normalizer))


# --- What is drawn --------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    one, two, other = objective(), objective(), objective(seed=2)
    two.draw(3)
    torch.rand(7)
    a, b = one.draw(40), two.draw(40)
    for name in ("dynamic", "static", "fluxes", "deviation"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert not torch.equal(a.dynamic, other.draw(40).dynamic)


def test_each_window_comes_at_most_once_an_epoch_and_in_another_order() -> None:
    work = objective()
    epochs = []
    for epoch in range(2):
        steps = range(epoch * work.steps_per_epoch, (epoch + 1) * work.steps_per_epoch)
        epochs.append([tuple(row) for n in steps for row in work.draw(n).dynamic[:, 0].tolist()])
        assert len(set(epochs[-1])) == len(epochs[-1]) == 8 * work.steps_per_epoch
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("kind", ["site", "time", "warm_site"])
def test_windows_of_training_see_training_days_alone(kind: str) -> None:
    work = objective(f"split.kind={kind}", "training.batch=2", "training.microbatch=2")
    split, ask = work.samples.split, work.config
    length = ask.windows.context + ask.windows.horizon
    days = work.windows[:, 1:] + np.arange(length)
    assert split.training[work.windows[:, :1], days].all()
    ahead = work.validation[:, 1:] + ask.windows.context + np.arange(ask.evaluation.horizon)
    assert split.validation[work.validation[:, :1], ahead].all()


def test_too_few_windows_for_a_batch_are_told_of() -> None:
    with pytest.raises(FluxError, match=r"training.batch is 8, but there are 4 windows"):
        objective("windows.stride=700")


# --- What is heard --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", get_args(Variant))
def test_parts_of_a_batch_add_up_to_it_for_every_variant(variant: str) -> None:
    work = objective(f"network.variant={variant}")
    batch = work.draw(3)
    parts = torch.cat([work.losses(batch, slice(n, n + 4)) for n in (0, 4)])
    torch.testing.assert_close(parts, work.losses(batch, slice(0, 8)))


HEARING = ("network.autoregressive=true", "forcing.decay=constant", "forcing.ratio=0.5")


def test_a_coin_of_the_batch_is_the_same_for_all_of_its_grains() -> None:
    work = objective(*HEARING, "forcing.coin=batch")
    batch = work.draw(3)
    parts = torch.cat([work.losses(batch, slice(n, n + 4)) for n in (0, 4)])
    torch.testing.assert_close(parts, work.losses(batch, slice(0, 8)))


def test_coins_of_samples_are_those_of_step_and_grain() -> None:
    one, two = objective(*HEARING), objective(*HEARING)
    batch, part = one.draw(3), slice(4, 8)
    two.losses(two.draw(2), slice(0, 4))
    torch.rand(5)
    assert torch.equal(one.losses(batch, part), two.losses(batch, part))


def test_the_teacher_leaves_as_the_configuration_says() -> None:
    work = objective("network.autoregressive=true", "forcing={decay: linear, scale: 10.0}")
    assert [work.forcing(step) for step in (0, 5, 10, 99)] == [1.0, 0.5, 0.0, 0.0]
    assert objective(*HEARING).forcing(99) == 0.5
    assert objective("forcing.decay=constant").forcing(0) == 0.0


def test_a_free_run_hears_no_flux_of_the_days_that_it_predicts() -> None:
    work = objective("network.autoregressive=true")
    where = work.validation[:1]
    ahead = where[0, 1] + work.config.windows.context
    before = free_run(work.network, work.samples, where)[0]
    work.samples._fluxes[where[0, 0], ahead:] = 50.0
    assert torch.equal(free_run(work.network, work.samples, where)[0], before)
    work.samples._fluxes[where[0, 0], ahead - 1] = 50.0
    assert not torch.equal(free_run(work.network, work.samples, where)[0], before)
    assert work.network.training


def test_errors_are_divided_by_deviations_of_training_days() -> None:
    work = objective("objective={deviation: all}")
    fluxes, split = work.samples.records.fluxes, work.samples.split
    batch = work.draw(0)
    pooled = fluxes[split.training].std(axis=0)
    np.testing.assert_allclose(batch.deviation[0], pooled, rtol=1e-6)
    by_site = objective("objective={deviation: site, floor: 0.0}").samples
    site = int(split.training.any(axis=1).argmax())
    expected = fluxes[site, split.training[site]].std(axis=0)
    found = by_site.batch(np.array([[site, 0]]), 10).deviation[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- What is left behind --------------------------------------------------------------------------


def members(run: Path) -> list[tuple[int, LstmConfig, Samples]]:
    config, sites = resolved(), read_sites(sites_path(run))
    return [
        (index, mine, Samples(mine, sites))
        for index in range(config.members)
        for mine in [config.member_config(index)]
    ]


def test_predictions_are_of_test_days_and_add_up(run: Path) -> None:
    for index, _, samples in members(run):
        predicted = stored(run, "predictions", index)
        known = np.isfinite(predicted).all(axis=-1)
        assert known.any()
        assert not (known & ~samples.split.test).any()
        gpp, npp, nep, rh = np.moveaxis(predicted[known], -1, 0)
        np.testing.assert_array_equal(nep, npp - rh)
        assert min(gpp.min(), npp.min(), rh.min()) >= 0
        assert stored(run, "mass_residual", index) == 0


def test_stored_scores_are_those_of_stored_predictions(run: Path) -> None:
    for index, _, samples in members(run):
        predicted = stored(run, "predictions", index).astype(np.float64)
        scores = stored(run, "scores", index)
        assert scores.shape[:2] == (len(METHODS), len(SCORES))
        for found, score in zip(scores[0], SCORES.values(), strict=True):
            expected = score(predicted, samples.records.fluxes)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        tested = samples.split.test.any(axis=1)
        np.testing.assert_array_equal(np.isfinite(scores[0, 0, :, 0]), tested)


def test_stored_drift_is_that_of_one_run_over_years_of_unseen_sites(run: Path) -> None:
    for index, mine, samples in members(run):
        network = untrained(mine, samples.records, samples.normalizer)
        network.load_state_dict(torch.load(weights_path(run, index), weights_only=True))
        found = stored(run, "nep_drift", index)
        tested: Any = samples.split.test.any(axis=1)
        expected = np.broadcast_to(tested[:, None, None], found.shape)
        np.testing.assert_array_equal(np.isfinite(found), expected)
        site, past, days = int(tested.argmax()), mine.windows.context, 365
        outputs, _ = free_run(network, samples, np.array([[site, 0]]), days)
        observed = samples.records.fluxes[site, past : past + days]
        error = outputs[0, :, 2].double().numpy().sum() - observed[:, 2].sum()
        sizes = [observed[:, 0].sum(), np.abs(observed[:, 2]).sum()]
        np.testing.assert_allclose(found[site, 0], error / sizes, rtol=1e-3)


def test_a_split_that_knows_its_sites_does_not_drift() -> None:
    work = objective("split.kind=time")
    assert np.isnan(drifted(work.network, work.samples)["nep_drift"]).all()
    assert drifted(work.network, objective("evaluation.drift_years=0").samples) == {}


def test_a_network_that_corrects_nothing_drifts_as_the_regression() -> None:
    plain = "network={variant: none, head: linear, head_hidden: 0, site_levels: false}"
    work = objective("objective.baseline=regression", plain)
    for parameter in work.network.head.parameters():
        torch.nn.init.zeros_(parameter)
    baseline, tested = work.samples.baseline, work.samples.split.test.any(axis=1)
    assert baseline is not None
    found, past = drifted(work.network, work.samples)["nep_drift"], work.config.windows.context
    for site in np.flatnonzero(tested):
        fluxes = work.samples.records.fluxes[site, past : past + 365]
        error = (baseline[site, past : past + 365] - fluxes)[:, 2].sum()
        np.testing.assert_allclose(found[site, 0, 0], error / fluxes[:, 0].sum(), rtol=1e-4)


def test_attention_is_kept_where_there_is_one(run: Path) -> None:
    for index, mine, _ in members(run):
        weights = stored(run, "attention", index)
        if mine.network.variant == "attention_gate":
            np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
        else:
            assert np.isnan(weights).all()


def test_the_weights_predict_again_what_was_stored(run: Path) -> None:
    index, mine, samples = members(run)[-1]
    scale = Normalizer.load(weights_path(run, index).with_suffix(".json"))
    assert scale == samples.normalizer
    network = untrained(mine, samples.records, scale)
    network.load_state_dict(torch.load(weights_path(run, index), weights_only=True))
    past, horizon = mine.windows.context, mine.evaluation.horizon
    predicted = stored(run, "predictions", index)
    site, day = np.argwhere(np.isfinite(predicted[..., 0]))[0]
    again, _ = free_run(network, samples, np.array([[site, day - past]]))
    np.testing.assert_allclose(again[0], predicted[site, day : day + horizon], rtol=1e-4)


def test_the_report_tells_scores_intervals_and_references(run: Path) -> None:
    scores = json.loads((run / "report" / "evaluation.json").read_text())
    assert {f"site_{method}{flux}_nse" for method in ("", "climatology_", "persistence_")
            for flux in ("gpp", "npp", "nep", "rh")} < set(scores)  # fmt: skip
    assert {f"site_nep_drift_{flux}{part}" for flux in SHARES_OF for part in ("", "_p90")} < set(
        scores
    )
    pictures = {path.stem for path in (run / "report").glob("*.png")}
    assert pictures == {"series-site", "scatter-site", "skill-site", "attention", "losses"}
    (section,) = (s for s in load_sections(run) if s.title.startswith("LSTMs"))
    table, references, drift, every = section.tables
    assert len(table.rows) == 2 * 4
    assert all("±" in str(row[2]) for row in table.rows)
    assert len(references.rows) == 2 * 4
    assert len(drift.rows) == resolved().evaluation.drift_years
    assert np.isclose(float(str(drift.rows[-1][1])), 100 * scores["site_nep_drift_gpp"], rtol=0.01)
    assert len(every.rows) == 4
    parameters = every.columns.index("Parameters")
    counts: list[Any] = [row[parameters] for row in every.rows]
    for (_, mine, samples), count in zip(members(run), counts, strict=True):
        network = untrained(mine, samples.records, samples.normalizer)
        assert count == sum(p.numel() for p in network.parameters())
    times: list[Any] = [row[every.columns.index("ms a step")] for row in every.rows]
    assert min(times) > 0


def test_collecting_again_finds_the_same(run: Path) -> None:
    again = summarize(resolved(), run, partial=True)
    assert again == json.loads((run / "report" / "evaluation.json").read_text())
