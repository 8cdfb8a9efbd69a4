"""The searches of the LSTM job: kills change nothing, no trial is lost, and the page ranks them."""

import json
import os
import random
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.comparison import differences
from support.faults import run_until, train_under_fire
from support.lstm_job import lstm_plan, resolved
from support.small_work import equal

from cluster import Attempt, Member
from cluster.calls import Call
from cluster.executor import Backend
from cluster.stage import Stage
from cluster.stopping.signals import StopFlag
from jobs.lstm.config import LstmConfig, stages
from jobs.lstm.samples import Samples
from jobs.lstm.searching import Task, open_study, search
from jobs.lstm.sites import sites_path
from jobs.lstm.training import Forecasting, untrained
from jobs.outputs import weights_path
from kernels.lstm import StaticDynamicLSTM
from pipelines.config import ConfigError
from pipelines.ensemble import read_commit
from pipelines.fluxes import read_sites
from pipelines.plan import Plan
from pipelines.search import State, Trial, trial_member
from pipelines.search.working import HopelessError
from pipelines.seeds import derived_seed
from pipelines.tracking import VOLATILE, read_metrics
from pipelines.training.loop import Trainer, make_deterministic

SPACE = (
    "seeds=1",
    "sweep.network.dropout={low: 0.0, high: 0.4}",
    "sweep.training.learning_rate={low: 1e-3, high: 1e-1, log: true}",
    "evaluation.horizon=30",
    "resources.train.checkpoint_seconds=0.1",
)
ONE = (*SPACE, "search={method: adaptive, trials: 4, workers: 1, startup: 2}")
TWO = (*SPACE, "search={method: adaptive, trials: 4, workers: 2, pruner: hyperband}")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)


def searched(plan: Plan, backend: Backend, calls: Sequence[Call] = ()) -> Path:
    """Run all stages but the last, the search as told."""
    run_until(plan, "inline", "prepare")
    run_until(plan, backend, "train", calls)
    return plan.directory


def under_fire(plan: Plan, shots: Sequence[tuple[int, int, float]]) -> Call:
    """A worker that is shot at, in the n-th attempt by the n-th."""
    fired = (search, StaticDynamicLSTM, plan.config, shots)
    return Call(train_under_fire, fired, {"in_tests": True})


def found_in(run: Path, *overrides: str) -> tuple[list[Trial], list[Any]]:
    """The trials of a run, and their metrics."""
    trials = open_study(resolved(*overrides), run).trials
    logs = [trial_member(run, trial.number).directory / "metrics.jsonl" for trial in trials]
    return trials, [read_metrics(log, without=VOLATILE) for log in logs]


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by one worker that nothing befell."""
    return searched(lstm_plan(tmp_path_factory.mktemp("twin"), *ONE), "inline")


def test_signals_at_random_moments_change_nothing(twin: Path, tmp_path: Path) -> None:
    plan, draw = lstm_plan(tmp_path, *ONE), random.Random()
    # Two, both before the end of the search, between any two operations.
    shots = [(draw.choice(SIGNALS), draw.randrange(60), draw.uniform(0, 0.02)) for _ in range(2)]
    run = searched(plan, "local", [under_fire(plan, shots)])
    (member,) = Stage.load(run, "train")
    assert len(member.ledger.attempts()) == 3, shots
    assert differences(run, twin) == [], shots
    assert found_in(run, *ONE) == found_in(twin, *ONE), shots
    assert (run / "search.journal").read_text().count('"sampler_seed"') == 4


def test_of_two_workers_one_is_killed_and_no_trial_is_lost_or_taken_twice(
    tmp_path: Path,
) -> None:
    plan, draw = lstm_plan(tmp_path, *TWO), random.Random()
    shots = [(signal.SIGKILL, draw.randrange(30), draw.uniform(0, 0.02))]
    run = searched(plan, "local", [under_fire(plan, shots)])
    trials, _ = found_in(run, *TWO)
    assert [trial.number for trial in trials] == list(range(4))
    assert {trial.state for trial in trials} <= {State.COMPLETE, State.PRUNED}
    assert all(read_commit(run / "ensemble.zarr", number) for number in range(4))
    best = min((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0)
    alone = trained_alone(resolved(*TWO), best, run)
    assert alone.best == min(best.reported.values())
    weights = torch.load(weights_path(run, best.number), weights_only=True)
    assert equal(weights, dict(alone.final_network.state_dict()))
    run_until(plan, "inline", "collect")
    ranking = json.loads((run / "report" / "search.json").read_text())["trials"]
    assert (ranking[0]["number"], ranking[0]["value"]) == (best.number, best.value)
    assert sorted(trial["number"] for trial in ranking) == list(range(4))
    page = (run / "report" / "index.html").read_text()
    assert "Best trial" in page
    assert "training.learning_rate" in page


def trained_alone(config: LstmConfig, trial: Trial, run: Path) -> Trainer:
    """The network of a trial without a search."""
    seed, mine = derived_seed(config.seed, "train", 0), config.at_point(trial.point)
    make_deterministic(1, seed)
    samples = Samples(mine, read_sites(sites_path(run)))
    network = untrained(mine, samples.records, samples.normalizer)
    objective = Forecasting(samples, seed, network)
    trainer = Trainer(network, objective, mine.training, lambda step, values: None)
    while trainer.steps_done < trainer.steps_total:
        trainer.step()
    return trainer


@pytest.mark.parametrize(
    ("point", "why"),
    [
        ({"training.batch": 4096}, "training.batch is 4096, but there are"),
        ({"training.microbatch": 3}, "expected grain <= microbatch <= batch"),
    ],
)
def test_impossible_parameters_fail_their_trial_alone(
    twin: Path, tmp_path: Path, point: dict[str, int], why: str
) -> None:
    member = Member(tmp_path, "train", 0)
    sites_path(tmp_path).parent.mkdir()
    sites_path(tmp_path).symlink_to(sites_path(twin))
    task = Task(resolved(*ONE), member, Attempt(member, 1, StopFlag(os.getpid())))
    with pytest.raises(HopelessError, match=re.escape(why)):
        task.begin(Trial(0, point))


def test_a_random_search_is_an_array_of_its_points_and_is_ranked(tmp_path: Path) -> None:
    ask = (*SPACE, "search={method: random, trials: 2}", "training.epochs=1")
    plan = lstm_plan(tmp_path, *ask)
    config = resolved(*ask)
    assert [stage.members for stage in stages(config)] == [2, 1, 2, 1]
    run_until(plan, "inline", "collect")
    ranking = json.loads((plan.directory / "report" / "search.json").read_text())["trials"]
    points = {trial["number"]: trial["point"] for trial in ranking}
    assert [points[0], points[1]] == config.points
    rates = [config.member_config(n).training.learning_rate for n in range(2)]
    assert rates == [point["training.learning_rate"] for point in config.points]
    assert ranking[0]["value"] < ranking[1]["value"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"search": {"method": "random"}}, "search.method=random expects values to search below"),
        ({"sweep": {"training": {"clip": {"low": 0.1, "high": 1.0}}}}, "of which there is no grid"),
        (
            {"search": {"method": "random"}, "sweep": {"split": {"kind": ["site"]}}},
            "expected to search values of network, forcing, training; found 'split.kind'",
        ),
        (
            {
                "search": {"method": "random"},
                "sweep": {"network": {"dropout": {"low": 0.5, "high": 1.0}}},
            },
            "network.dropout",
        ),
        (
            {
                "search": {"method": "adaptive"},
                "seeds": 2,
                "sweep": {"network": {"dropout": [0.0]}},
            },
            "one network a trial: expected seeds=1, found 2",
        ),
    ],
)
def test_searches_that_cannot_be_are_refused(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        LstmConfig.model_validate(overrides)


def test_an_adaptive_search_has_workers_and_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = resolved(preset="search")
    assert {stage.name: stage.members for stage in stages(config)}["train"] == 8
    assert config.members == 64
    monkeypatch.setattr("pipelines.search.settings.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'yaoki\[search\]'"):
        stages(config)
