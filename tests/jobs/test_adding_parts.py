"""Parts of the Adding Problem: its configuration, what is drawn, and what is left behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.adding import adding_plan, resolved

from jobs.adding.collected import Trained, points_of
from jobs.adding.config import AddingConfig, Contestant, Task, stages
from jobs.adding.problem import Adding, measured_on, predicted
from jobs.adding.training import untrained
from jobs.launch import Launcher
from kernels.lstm.adding import AddingKind
from pipelines.training.settings import learning_rate

torch.set_num_threads(1)

CONFIG = resolved()
#: Of the four points of the sweep, two seeds each, in its order.
NAMES = ("seed_rnn", "lstm_chrono") * 2
FIXED, FRESH = (CONFIG.member_config(index) for index in (0, 2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, its report included."""
    plan = adding_plan(tmp_path_factory.mktemp("whole"))
    launcher = Launcher(plan, "inline")
    launcher.lay_out()
    launcher.run()
    return plan.directory


def objective(config: AddingConfig, seed: int = 1) -> Adding:
    torch.manual_seed(seed)
    return Adding(config, seed, untrained(config))


# --- What is configured ---------------------------------------------------------------------------


def test_members_are_networks_times_lengths_times_seeds() -> None:
    mine = [CONFIG.member_config(index) for index in range(CONFIG.members)]
    assert [c.contestant for c in mine] == [name for name in NAMES for _ in range(2)]
    assert [c.length for c in mine] == [8] * 4 + [12] * 4
    assert {stage.name: stage.members for stage in stages(CONFIG)} == {"train": 8, "collect": 1}


def test_the_networks_are_those_of_the_kernels() -> None:
    kinds = get_args(AddingKind)
    assert get_args(Contestant.model_fields["kind"].annotation) == kinds
    assert len(kinds) == 6


def test_the_baseline_is_what_the_seed_says() -> None:
    config = resolved("contestant=seed_lstm", "sweep={}", preset="full")
    asked, chosen = config.training, config.chosen
    assert (chosen.kind, chosen.hidden, chosen.sequences) == ("lstm", 128, 4000)
    assert (asked.epochs, asked.batch, asked.learning_rate) == (60, 128, 1e-3)
    assert (asked.schedule, asked.clip, asked.ema) == ("constant", None, None)
    assert chosen.validate_every == chosen.sequences // chosen.batch
    assert config.evaluation.validation == 1000


def test_the_rate_is_constant_until_late() -> None:
    asked = FRESH.training.model_copy(update={"schedule": "late", "epochs": 9})
    rates = [learning_rate(asked, epoch) / asked.learning_rate for epoch in range(9)]
    assert rates == pytest.approx([1] * 7 + [2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"contestant": "gru"}, "expected one of lstm_chrono; found gru"),
        ({"length": 5}, r"expected one of \[100\], found 5"),
        ({"tasks": (Task(length=100, steps=50, goal=1.0),)}, "must divide the steps, 50"),
        ({"tasks": (Task(length=100, steps=20, goal=1.0),) * 2}, "different lengths"),
        ({"sweep": {"seeds": [1]}}, "contestant, length, contestants"),
        ({"sweep": {"length": [100, 5]}}, "found 5"),
    ],
)
def test_impossible_values_are_refused_before_anything_runs(
    wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        AddingConfig(**wrong)


# --- What is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FIXED, FRESH], ids=["fixed", "fresh"])
@settings(max_examples=10, deadline=None)
@given(step=st.integers(0, 10**6), other=st.integers(0, 50))
def test_a_batch_is_a_function_of_seed_and_step_alone(
    config: AddingConfig, step: int, other: int
) -> None:
    one, two = objective(config), objective(config)
    two.draw(other)
    torch.rand(other)
    batch = one.draw(step)
    assert torch.equal(batch.x, two.draw(step).x)
    assert torch.equal(batch.y, two.draw(step).y)
    assert batch.x.shape == (16, 8, 2)
    assert not torch.equal(batch.x, objective(config, seed=2).draw(step).x)


def rows(batch: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in batch.flatten(1).tolist()]


def test_fixed_sequences_come_once_in_a_pass_and_in_another_order_in_the_next() -> None:
    work = objective(FIXED)
    assert work.fixed is not None
    there, passes = set(rows(work.fixed.x)), []
    for turn in range(2):
        batches = [work.draw(step).x for step in range(6 * turn, 6 * turn + 6)]
        passes.append(rows(torch.cat(batches)))
        assert len(set(passes[-1])) == 96
        assert set(passes[-1]) <= there
    assert passes[0] != passes[1]


def test_new_sequences_never_come_again() -> None:
    work = objective(FRESH)
    seen = [row for step in range(40) for row in rows(work.draw(step).x)]
    held_out = rows(work.held_out.x) + rows(measured_on(FRESH, "test").x)
    assert len(set(seen + held_out)) == 40 * 16 + 50 + 60


def test_parts_of_a_batch_add_up_to_its_squared_error() -> None:
    work = objective(FRESH)
    batch = work.draw(3)
    parts = [work.losses(batch, slice(n, n + 4)).sum() for n in range(0, 16, 4)]
    errors = predicted(work.network, batch) - batch.y.squeeze(1)
    torch.testing.assert_close(torch.stack(parts).sum(), errors.square().sum())


# --- What is left behind --------------------------------------------------------------------------


def test_the_ensemble_holds_curves_and_predictions(run: Path) -> None:
    group: Any = zarr.open_group(run / "ensemble.zarr", mode="r")
    for index in range(CONFIG.members):
        config = CONFIG.member_config(index)
        network = untrained(config)
        weights = torch.load(run / "weights" / f"{index:04d}.pt", weights_only=True)
        network.load_state_dict(weights)
        sequences = measured_on(config, "validation")
        np.testing.assert_array_equal(group["sum"][index], sequences.y[:, 0])
        said = predicted(network, sequences).numpy()
        np.testing.assert_allclose(group["prediction"][index], said, rtol=1e-5)
        error = np.square(said.astype(np.float64) - group["sum"][index]).mean()
        curve = group["validation"][index]
        assert np.isclose(curve[np.isfinite(curve)][-1], error, rtol=1e-5)


def test_training_stops_at_the_goal_or_at_the_limit(run: Path) -> None:
    stopped = set()
    for point in points_of(CONFIG, run, range(CONFIG.members)):
        for member in point.members:
            reached = member.steps_to(point.config.task.goal)
            assert (member.validation[:-1] >= point.config.task.goal).all()
            assert member.steps[-1] == (reached or point.config.steps)
            stopped.add(reached is not None)
    assert stopped == {True, False}


def test_the_scores_are_those_of_the_points(run: Path) -> None:
    scores = json.loads((run / "report" / "evaluation.json").read_text())
    points = points_of(CONFIG, run, range(CONFIG.members))
    assert len(scores) == 2 * len(points) == 8
    for point in points:
        name = f"{point.name}_{point.config.length}"
        assert scores[f"{name}_learned"] == point.reached() / 2
        assert min(scores[f"{name}_test_mse"], point.middle.variance) > 0


def test_the_middle_member_is_the_median_by_steps_to_the_goal(run: Path) -> None:
    point = replace(points_of(CONFIG, run, range(CONFIG.members))[0], members=())
    below, above = point.config.task.goal / 2, point.config.task.goal * 2
    whole = [*[(steps, below) for steps in (300, 100, 200)], (600, above), (600, np.nan)]
    members = [
        Trained(n, np.array([steps]), np.array([last]), np.zeros(1), np.zeros(1), 0.0)
        for n, (steps, last) in enumerate(whole)
    ]
    for chosen, middle in (((0, 1, 2), 2), ((0, 1, 2, 3, 4), 0), ((3, 4), 3), ((2, 4), 2)):
        found = replace(point, members=[members[n] for n in chosen]).middle
        assert found.index == middle


def test_the_report_has_the_tables_and_the_pictures(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    for name in ("errors", "scatter", "example_8", "example_12"):
        assert (run / "report" / f"{name}.png").exists()
    shown = ["Panels of falling curves", "Panels of predicted against true sums"]
    shown += ["two of which are marked", "Median steps to 0.01", "seed_rnn, T = 12"]
    assert all(text in page for text in shown)
