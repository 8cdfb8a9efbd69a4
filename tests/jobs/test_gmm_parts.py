"""Parts of the mixture job: what is drawn, what is measured, and what is left behind."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.faults import run_until
from support.gmm import BAD_STEP, gmm_plan, resolved, train_spoiled

from cluster import Member
from cluster.calls import Call
from jobs.gmm.densities import Drawn, Stored, store_path
from jobs.gmm.export import export_path
from jobs.gmm.health import health, peak
from jobs.gmm.measuring import TestSet
from jobs.gmm.replay import replay
from jobs.gmm.training import Fitting, untrained, validation_densities
from jobs.launch import StageFailedError
from jobs.outputs import weights_path
from kernels.gmm.em import sigma_bounds
from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture
from kernels.gmm.shapes import GaussianSum
from pipelines.seeds import generator
from pipelines.tracking import read_metrics

torch.set_num_threads(1)

CONFIG = resolved()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, its report included."""
    plan = gmm_plan(tmp_path_factory.mktemp("whole"))
    run_until(plan, "inline", "collect")
    return plan.directory


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run in which a step is not finite although none may be, and what it said."""
    plan = gmm_plan(tmp_path_factory.mktemp("failed"), "training.max_skipped=0.0")
    run_until(plan, "inline", "simulate")
    calls = [Call(train_spoiled, (plan.config,))] * 2
    with pytest.raises(StageFailedError) as error:
        run_until(plan, "inline", "train", calls)
    return plan.directory, str(error.value)


def objective(seed: int = 1) -> Fitting:
    torch.manual_seed(seed)
    return Fitting(CONFIG, Drawn(CONFIG.data, CONFIG.training.batch), seed, untrained(CONFIG))


# --- What is drawn --------------------------------------------------------------------------------


ONE, TWO, THREE = objective(), objective(), objective(seed=2)


@settings(max_examples=8, deadline=None)
@given(step=st.integers(0, 10**6), other=st.integers(0, 50))
def test_a_batch_is_a_function_of_seed_and_step_alone(step: int, other: int) -> None:
    one, two = ONE, TWO
    two.draw(other)
    torch.rand(other)
    a, b = one.draw(step), two.draw(step)
    assert torch.equal(a.masses, b.masses)
    assert torch.equal(a.edges, b.edges)
    assert (a.components, a.kind, a.epoch) == (b.components, b.kind, b.epoch)
    least, most = CONFIG.data.points
    assert least <= a.masses.shape[1] <= most
    assert a.components in CONFIG.data.components
    torch.testing.assert_close(a.masses.sum(dim=1), torch.ones(CONFIG.training.batch))
    third = THREE.draw(step)
    assert a.masses.shape != third.masses.shape or not torch.equal(a.masses, third.masses)


def test_every_stored_density_comes_once_in_a_pass(run: Path) -> None:
    paths = [store_path(run, shard) for shard in range(2)]
    stored, wanted = Stored(paths, 20, seed=5), []
    for path in paths:
        wanted += [tuple(row) for row in np.asarray(zarr.open_array(path, path="masses"))]
    orders = []
    for turn in range(2):
        found = []
        for step in range(8 * turn, 8 * turn + 8):
            masses, edges = stored.densities(step, generator(0))
            assert len(edges) == masses.shape[1] + 1
            found += [tuple(row) for row in masses.tolist()]
        assert sorted(found) == sorted(wanted)
        orders.append(found)
    assert orders[0] != orders[1]


def test_parts_of_a_batch_add_up_to_it() -> None:
    work = ONE
    batch = work.draw(3)
    parts = [work.losses(batch, slice(n, n + 5)).sum() for n in range(0, 20, 5)]
    whole = work.losses(batch, slice(0, 20))
    assert whole.shape == (20,)
    torch.testing.assert_close(torch.stack(parts).sum(), whole.sum())


# --- What is measured -----------------------------------------------------------------------------


def test_all_members_are_validated_on_the_same_densities() -> None:
    a, b = ONE, THREE
    assert torch.equal(a.held_out.masses, b.held_out.masses)
    with torch.no_grad():
        assert a.validate(b.network) == b.validate(b.network)
    assert a.health == b.health


def spread(gridded: Gridded, components: int) -> Mixture:
    """Mixtures whose components are spread over the grid."""
    size, width = len(gridded.masses), gridded.edges[:, -1:] - gridded.edges[:, :1]
    places = torch.linspace(0.2, 0.8, components, dtype=width.dtype)
    means = (gridded.edges[:, :1] + width * places).expand(size, -1)
    weights = torch.full_like(means, -math.log(components))
    return Mixture(weights, means, (width / 9).expand(size, components))


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 3e-12), (1e6, -5e6)])
def test_the_signs_of_collapse_have_no_unit(scale: float, shift: float) -> None:
    gridded = validation_densities(CONFIG).to(torch.float64)
    fits = [spread(gridded, k) for k in (1, 3)]
    moved = gridded._replace(edges=gridded.edges * scale + shift)
    there = [f._replace(means=f.means * scale + shift, sigmas=f.sigmas * scale) for f in fits]
    assert health(moved, there) == pytest.approx(health(gridded, fits), rel=1e-6)


def test_each_sign_of_collapse_is_seen() -> None:
    gridded = validation_densities(CONFIG).to(torch.float64)
    sound = spread(gridded, 3)
    found = health(gridded, [sound])
    assert (found["floor_ratio"], found["order_violations"]) == (0, 0)
    assert found["w_sum_min"] == pytest.approx(1, abs=1e-6)
    crossed = health(gridded, [sound._replace(means=sound.means.flip(-1))])
    assert crossed["order_violations"] == 1
    held = sound.sigmas.clone()
    held[:, 0] = sigma_bounds(gridded).low.squeeze(-1)
    assert health(gridded, [sound._replace(sigmas=held)])["floor_ratio"] == pytest.approx(1 / 3)
    spike = sound._replace(sigmas=sound.sigmas * torch.tensor([1, 1e-9, 1]))
    height = math.exp(sound.log_weights[0, 1]) / float(spike.sigmas[0, 1]) / math.sqrt(2 * math.pi)
    assert float(peak(gridded, spike)[0]) == pytest.approx(height)


def test_the_exact_mixture_has_no_error() -> None:
    test = TestSet(resolved("evaluation.points=96"))
    (place,) = (n for n, name in enumerate(test.names) if name == "mixture_few")
    density = test.drawn.densities[place]
    assert isinstance(density.shape, GaussianSum)
    count = len(density.center)
    exact = Mixture(
        density.shape.weights.log(),
        density.center[:, None] + density.scale[:, None] * density.shape.means,
        density.scale.abs()[:, None] * density.shape.sigmas,
    )
    exact = exact._replace(log_weights=exact.log_weights.clamp_min(-100.0))
    rows = slice(place * count, (place + 1) * count)
    every = Mixture(*(part.repeat(len(test.names), 1) for part in exact))
    for name, values in test.measured(every).items():
        # What lies beyond the grid is no part of the density, but of the mixture.
        assert float(values[rows].abs().max()) < 1e-3, name
        assert float(values.abs().max()) > 0.1, name


# --- What is left behind --------------------------------------------------------------------------


def test_every_epoch_tells_of_the_signs_of_collapse(run: Path) -> None:
    rows = read_metrics(Member(run, "train", 1).directory / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    told = {"sigma_min", "sigma_median", "sigma_max", "floor_ratio", "peak_mean", "peak_max"}
    told |= {"w_min", "w_sum_min", "w_sum_max", "order_violations", "loss", "validation", "skipped"}
    assert all(told <= row.keys() for row in rows)


def test_the_ensemble_holds_mixtures_and_what_they_are_worth(run: Path) -> None:
    group = zarr.open_group(run / "ensemble.zarr", mode="r")
    test, found = TestSet(CONFIG), {name: np.asarray(array) for name, array in group.arrays()}
    assert found["components"].tolist() == [2, 3]
    # Means and sigmas are stored in float32, so a quantile is off by half a last place of each, up
    # to eps times the farthest edge: in standard deviations that is much where these are small.
    rounding = torch.finfo(torch.float32).eps * test.gridded.edges.abs().max() / test.sd
    for size, components in enumerate((2, 3)):
        parts = (torch.from_numpy(found[name][1, size]) for name in Mixture._fields)
        fit = Mixture(*(part[:, :components] for part in parts))
        for name, values in test.measured(fit).items():
            error = (torch.from_numpy(found[name][1, size]) - values).abs()
            allowed = rounding if name == "tail_error" else torch.tensor(1e-6)
            assert (error <= allowed + 1e-5 * values.abs()).all(), name
    assert np.isnan(found["means"][:, 0, :, 2:]).all()


def test_the_best_by_validation_is_exported_with_its_command(run: Path) -> None:
    paths = [Member(run, "train", index).directory / "metrics.jsonl" for index in range(2)]
    last = [float(read_metrics(path)[-1]["validation"] or 0) for path in paths]
    best = last.index(min(last))
    model = torch.load(export_path(run), weights_only=True)
    assert model["made_by"]["member"] == best
    assert model["made_by"]["command"] == "yaoki run gmm --preset smoke"
    assert model["config"] == CONFIG.member_config(best).refiner.model_dump()
    weights = torch.load(weights_path(run, best), weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in model["weights"].items())
    assert model["weights"].keys() == weights.keys()


def test_the_report_has_the_scores_and_the_pictures(run: Path) -> None:
    scores = json.loads((run / "report" / "evaluation.json").read_text())
    assert all(math.isfinite(value) for value in scores.values())
    assert scores["finite_share"] == 1
    page = (run / "report" / "index.html").read_text()
    for name in ("fits", "cdf", "tail", "losses", "health"):
        assert (run / "report" / f"{name}.png").exists()
    shown = ["Panels of densities", "against CDF error", "against quantile error"]
    shown += ["Loss curves of the members", "Three panels over the epochs"]
    assert all(text in page for text in shown)
    assert "training.learning_rate=0.003" in page


# --- What is not finite ---------------------------------------------------------------------------


def test_too_many_bad_steps_end_the_member_with_one_error(failed: tuple[Path, str]) -> None:
    run, said = failed
    assert f"1 of {BAD_STEP + 1} steps had an input, loss or gradient" in said
    assert "at most 0.00% may. The last one: input masses" in said
    assert f"kept in {run}/members/train/0000/skipped: 'python -m jobs.gmm.replay" in said
    assert not (run / "weights").exists()


@pytest.fixture
def kept(failed: tuple[Path, str]) -> Iterator[Path]:
    """The batch of the bad step; put back after a test has changed it."""
    path = failed[0] / f"members/train/0000/skipped/{BAD_STEP:08d}.pt"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def test_a_replay_names_the_density(kept: Path) -> None:
    lines = list(replay(kept))
    assert lines[0] == f"step {BAD_STEP} of member 0: input not finite: masses"
    assert lines[2] == "input: input masses, densities [3]"


def test_a_replay_names_the_operation(kept: Path) -> None:
    found: dict[str, Any] = torch.load(kept, weights_only=True)
    found["batch"]["masses"][3, 4] = 0.0
    found["network"]["start.first.weight"][0, 0] = torch.nan
    torch.save(found, kept)
    lines = list(replay(kept))
    assert lines[2].startswith("density 0: loss nan, gradient start.")
    assert "returned nan values" in lines[-1]
