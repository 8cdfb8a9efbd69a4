"""Variants side by side: which tie, which do not, and that the comparison can tell."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.faults import run_until
from support.lstm_job import lstm_plan, resolved

from jobs.lstm import collected  # its Tested would be collected as a test
from jobs.lstm.config import LstmConfig
from jobs.lstm.pairs import MARGIN, Comparison, Relation, Verdict, compare_all, mean_difference
from jobs.outputs import weights_path
from pipelines.fluxes import SiteRun, simulate_sites
from pipelines.fluxes.scores import Interval
from pipelines.fluxes.simulation import FLUXES
from pipelines.report import load_sections

SEEDS = 5
SPLITS = ("site", "time")


def run_scored_by(score: Callable[[str, str, int], float], *overrides: str) -> collected.Collected:
    """A run of which the scores are known: those of a variant, on a split, from a seed."""
    sweep = "sweep={network: {variant: [none, concat, gate]}, split: {kind: [site, time]}}"
    config = resolved(sweep, f"seeds={SEEDS}", "evaluation.horizon=30", *overrides)
    members = [_tested(config, index, score) for index in range(config.members)]
    records = simulate_sites(SiteRun(seed=1, sites=1, years=1), range(1)).records
    return collected.Collected(config, Path("nowhere"), members, records)


def _tested(
    config: LstmConfig, index: int, score: Callable[[str, str, int], float]
) -> collected.Tested:
    mine = config.member_config(index)
    value = score(mine.network.variant, mine.split.kind, config.seed_number(index))
    scores = np.full((3, 4, 2, 4), value)
    scores[:, :, 1] = np.nan  # a site that was not tested
    point, kind = config.point_of(index), mine.split.kind
    return collected.Tested(index, [], point, kind, FLUXES, scores, 0.0, 0)


def by_pair(found: collected.Collected) -> dict[tuple[str, str], Comparison]:
    return {(each.first, each.second): each for each in compare_all(found)}


# --- The statistic --------------------------------------------------------------------------------


def test_differences_of_a_seed_count_once() -> None:
    # Means of the seeds 2 and 4: standard error 1, Student's quantile of one degree of freedom.
    found = mean_difference({0: [1.0, 3.0], 1: [3.0, 5.0, np.nan], 2: [np.nan]})
    assert found == pytest.approx(Interval(3.0, 12.7062047))


def test_equal_functions_tie_and_others_do_not_as_often_as_promised() -> None:
    draw = np.random.default_rng(0)
    trials = 2000
    # What the splits of a seed have in common does not count several times.
    common = draw.normal(size=(trials, SEEDS, 1))
    noise = common + draw.normal(size=(trials, SEEDS, 3))
    ties = [_compared(each).zero_inside for each in noise]
    assert 0.94 < np.mean(ties) < 0.96
    apart = [_compared(each + 4.0).verdict is Verdict.APART for each in noise]
    assert np.mean(apart) > 0.99


def _compared(differences: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Comparison:
    by_seed = {seed: list(values) for seed, values in enumerate(differences)}
    interval = mean_difference(by_seed)
    return Comparison("a", "b", Relation.SAME, differences.size, 0, interval)


@pytest.mark.parametrize(
    ("mean", "half", "identical", "verdict"),
    [
        (0.0, 0.0, 10, Verdict.IDENTICAL),
        (0.01, MARGIN - 0.01, 0, Verdict.EQUIVALENT),
        (0.02, 0.01, 0, Verdict.EQUIVALENT),
        (0.01, MARGIN, 9, Verdict.OPEN),
        (-0.2, 0.1, 0, Verdict.APART),
        (0.2, np.nan, 0, Verdict.OPEN),
    ],
)
def test_what_an_interval_says(mean: float, half: float, identical: int, verdict: Verdict) -> None:
    found = Comparison("a", "b", Relation.SAME, 10, identical, Interval(mean, half))
    assert found.verdict is verdict
    assert json.loads(json.dumps(found.record(), allow_nan=False))["verdict"] == verdict


# --- The pairs ------------------------------------------------------------------------------------


def test_what_a_pair_shares_cancels() -> None:
    luck = np.random.default_rng(1).normal(size=SEEDS)
    effect = {"none": -0.5, "concat": 0.0, "gate": 0.001}

    def score(variant: str, kind: str, seed: int) -> float:
        return float(effect[variant] + 10 * luck[seed]) + 100 * SPLITS.index(kind)

    found = by_pair(run_scored_by(score))
    assert set(found) == {("concat", "gate"), ("none", "concat")}
    assert all(each.pairs == SEEDS * len(SPLITS) for each in found.values())
    assert found["none", "concat"].difference == pytest.approx((-0.5, 0), abs=1e-9)
    assert found["none", "concat"].verdict is Verdict.APART
    assert found["concat", "gate"].difference == pytest.approx((-0.001, 0), abs=1e-9)
    assert found["concat", "gate"].identical == 0


def test_networks_with_layer_normalization_are_other_functions() -> None:
    assert compare_all(run_scored_by(lambda *_: 0.5, "network.layer_norm=true")) == []
    assert by_pair(run_scored_by(lambda *_: 0.5))["concat", "gate"].verdict is Verdict.IDENTICAL


def test_one_function_under_two_names_trains_to_the_same_bits(tmp_path: Path) -> None:
    variants = "[none, concat, gate, attention_input, attention_gate]"
    plan = lstm_plan(tmp_path, f"sweep.network.variant={variants}", "seeds=1", "training.epochs=1")
    run_until(plan, "inline", "collect")
    run = plan.directory
    _, *names = (torch.load(weights_path(run, n), weights_only=True) for n in range(5))
    for one, other in (names[:2], names[2:]):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    told = json.loads((run / "report" / "comparisons.json").read_text())["comparisons"]
    assert [each["verdict"] for each in told] == [*[Verdict.IDENTICAL] * 2, *[Verdict.OPEN] * 2]
    (section,) = (s for s in load_sections(run) if s.title.startswith("LSTMs"))
    (table,) = (table for table in section.tables if table.title == "Variants side by side")
    assert [row[0] for row in table.rows][:1] == ["concat − gate"]
