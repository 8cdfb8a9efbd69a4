"""Parts of the diffusion job: what is drawn, what is observed, and what is left behind."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cluster import Attempt, Member
from cluster.stopping.signals import StopFlag
from jobs.catalog import WORKLOADS
from jobs.diffusion import observing
from jobs.diffusion.config import (
    DiffusionConfig,
    ObservationConfig,
    SimulationConfig,
)
from jobs.diffusion.observing import Scene, interpolated, scene
from jobs.diffusion.scores import (
    COMPONENTS,
    perturbation,
    trained_score,
    window_kernel,
)
from jobs.diffusion.simulation import Simulation, shard_path, shard_paths
from jobs.diffusion.training import (
    Denoising,
    linear_statistics,
    shifted,
    train,
)
from jobs.outputs import publish_weights, weights_path
from kernels.kolmogorov import KolmogorovSolver
from kernels.wiener import wiener_floor
from pipelines.seeds import derived_seed
from pipelines.tracking import read_metrics
from pipelines.training.loop import Trainer
from pipelines.trajectories import TrajectoryDataset, split, write_trajectories

torch.set_num_threads(1)


def resolved(*overrides: str, preset: str = "smoke") -> DiffusionConfig:
    found = WORKLOADS["diffusion"].resolve(preset, overrides).config
    assert isinstance(found, DiffusionConfig)
    return found


CONFIG = resolved()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory in which everything is simulated."""
    directory = tmp_path_factory.mktemp("run")
    for shard in range(CONFIG.simulation.shards):
        numbers = range(10 * shard, 10 * shard + 10)
        simulation = Simulation(CONFIG.simulation, [derived_seed(0, "x", n) for n in numbers])
        while simulation.steps_done < simulation.steps_total:
            simulation.step()
        path = shard_path(directory, shard)
        path.parent.mkdir(exist_ok=True)
        write_trajectories(path, simulation.result().numpy(), {})
    return directory


class Recorded(TrajectoryDataset):
    """Trajectories that remember which of them were read."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.read: list[int] = []

    def windows(self, indices: Iterable[int], starts: Iterable[int]) -> Tensor:
        chosen = list(indices)
        self.read += chosen
        return super().windows(chosen, starts)


def objective(run: Path, seed: int = 1, **training: Any) -> tuple[Denoising, Recorded]:
    ask = CONFIG.training.model_copy(update=training)
    config = CONFIG.model_copy(update={"training": ask})
    data = Recorded(shard_paths(run, config), config.network.window)
    network = torch.nn.Conv2d(10, 10, 1)
    return Denoising(config, data, seed, network), data


# --- What is drawn --------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 10**6), others=st.lists(st.integers(0, 50), max_size=3))
def test_a_batch_is_a_function_of_its_step_alone(run: Path, step: int, others: list[int]) -> None:
    one, two = objective(run)[0], objective(run)[0]
    for other in others:
        two.draw(other)
        torch.rand(other)
    a, b = one.draw(step), two.draw(step)
    assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    following = one.draw(step + 1)
    assert not torch.equal(a.noise, following.noise)
    assert not torch.equal(a.noise, objective(run, seed=2)[0].draw(step).noise)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 40), epoch=st.integers(0, 1000))
def test_an_epoch_draws_every_training_trajectory_once(run: Path, batch: int, epoch: int) -> None:
    drawing, data = objective(run, batch=batch, microbatch=batch, grain=batch)
    train_part = list(split(len(data))[0])
    data.read.clear()
    for place in range(drawing.steps_per_epoch):
        drawing.draw(epoch * drawing.steps_per_epoch + place)
    drawn = data.read
    assert len(drawn) == batch * drawing.steps_per_epoch
    assert len(drawn) - len(train_part) < batch
    assert sorted(drawn[: len(train_part)]) == train_part
    repeats = [drawn[: len(train_part)][i % len(train_part)] for i in range(len(drawn))]
    assert drawn == repeats  # what fills the last batch is the epoch's order from its start


def test_epochs_come_in_different_orders(run: Path) -> None:
    drawing, data = objective(run, batch=16)
    orders = []
    for epoch in range(3):
        data.read.clear()
        drawing.draw(epoch)
        orders.append(tuple(data.read))
    assert len(set(orders)) == 3


def test_times_are_spread_over_all_of_the_diffusion(run: Path) -> None:
    drawing, _ = objective(run, batch=16)
    t = drawing.draw(3).t
    assert sorted((t * 16).floor().int().tolist()) == list(range(16))
    assert t.tolist() != sorted(t.tolist())  # else a grain would hold neighbors only


def test_nothing_held_out_is_drawn_or_measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, data = objective(run)
    allowed, valid, test = (set(part) for part in split(len(data)))
    assert set(data.read) == valid
    data.read.clear()
    for step in range(50):
        drawing.draw(step)
    linear_statistics(CONFIG, data)
    assert set(data.read) == allowed
    opened: list[Recorded] = []

    def record(*arguments: Any) -> Recorded:
        opened.append(Recorded(*arguments))
        return opened[-1]

    monkeypatch.setattr(observing, "TrajectoryDataset", record)
    interpolated(CONFIG, run, scene(CONFIG, run))
    assert [set(each.read) <= part for each, part in zip(opened, (test, allowed), strict=True)]
    assert set(opened[0].read) == {min(test)}
    assert set(opened[1].read) == allowed


def test_validation_sees_the_same_noise_every_time_and_for_every_member(run: Path) -> None:
    first, other = objective(run, seed=1)[0], objective(run, seed=2)[0]
    network = torch.nn.Conv2d(10, 10, 1)

    class Timeless(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            return found

    with torch.no_grad():
        values = [each.validate(Timeless()) for each in (first, first, other)]
    assert values[0] == values[1] == values[2]
    x, t, noise = first.held_out.x, first.held_out.t, first.held_out.noise
    sde = perturbation(CONFIG)
    noisy = sde.mu(t)[:, None, None, None] * x + sde.sigma(t)[:, None, None, None] * noise
    error = (network(noisy) - noise).detach()
    assert values[0] == pytest.approx(float(error.square().mean()), rel=1e-6)


@pytest.mark.parametrize("wiener", [True, False])
def test_the_linear_floor_is_where_the_untrained_network_begins(run: Path, wiener: bool) -> None:
    config = CONFIG.model_copy(
        update={"network": CONFIG.network.model_copy(update={"wiener": wiener})}
    )
    data = TrajectoryDataset(shard_paths(run, config), config.network.window)
    mean, spectrum = linear_statistics(config, data)
    floor = wiener_floor(spectrum, perturbation(config))
    assert 0 <= floor < 1
    torch.manual_seed(0)
    network = window_kernel(config, mean, spectrum)
    with torch.no_grad():
        begin = Denoising(config, data, 1, network).validate(network)
    if wiener:
        assert begin == pytest.approx(floor, rel=0.3)
    else:
        assert begin > 2 * floor


# --- Symmetries -----------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_shift_is_a_symmetry_of_the_flow(seed: int) -> None:
    solver = KolmogorovSolver(32, dt=0.02)
    state = solver.advance(solver.initial([seed, seed + 1]), 0.2)

    def moved(fields: Tensor) -> Tensor:
        return shifted(fields, torch.Generator().manual_seed(seed))

    def state_of(velocity: Tensor) -> Tensor:
        # Vorticity from the velocity by spectral derivatives.
        k = torch.fft.fftfreq(32, 1 / 32, dtype=torch.float64)
        u, v = torch.fft.fft2(velocity).unbind(dim=1)
        return solver.state(torch.fft.ifft2(1j * k * v - 1j * k[:, None] * u).real)

    begin = solver.velocity(state)
    after = solver.velocity(solver.advance(state, 1.0))
    moved_first = solver.velocity(solver.advance(state_of(moved(begin)), 1.0))
    torch.testing.assert_close(moved_first, moved(after), rtol=1e-9, atol=1e-9)
    assert moved(begin).shape == begin.shape


def test_shifts_move_whole_windows_and_reach_every_place() -> None:
    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8).repeat(400, 1, 1, 1)
    found = shifted(x, torch.Generator().manual_seed(1))
    corners: dict[int, set[float]] = {0: set(), 1: set()}
    for index, (before, after) in enumerate(zip(x, found, strict=True)):
        corners[index % 2].add(float(after[0, 0, 0]))
        assert torch.equal(before.flatten().sort()[0], after.flatten().sort()[0])
        # Channels move together.
        assert torch.equal(after[1] - after[0], torch.full((8, 8), 64.0))
    assert {len(places) for places in corners.values()} == {4 * 8}


# --- What is observed -----------------------------------------------------------------------------


def small_scene(space: int = 4, time: int = 2) -> Scene:
    truth = torch.randn(5, 2, 16, 16, dtype=torch.float64)
    blank = Scene(truth, truth, space, time, 0.1)
    return Scene(truth, blank.observe(truth), space, time, 0.1)


@given(space=st.integers(1, 16), time=st.integers(1, 5), a=st.floats(-3, 3))
def test_observing_is_linear(space: int, time: int, a: float) -> None:
    seen = small_scene(space, time)
    x, y = torch.randn(2, 3, 5, 2, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(seen.observe(a * x + y), a * seen.observe(x) + seen.observe(y))
    assert seen.observe(x).shape[:1] == (3,)


@given(space=st.integers(1, 16), time=st.integers(1, 5))
def test_observing_picks_every_few_cells_and_frames(space: int, time: int) -> None:
    seen = small_scene(space, time)
    field = torch.full_like(seen.truth, torch.nan)
    seen.observe(field).copy_(seen.observed)
    there = ~field.isnan()
    assert torch.equal(field[there], seen.truth[there])
    assert int(there.sum()) == seen.observed.numel() > 0
    frames, _, rows, columns = there.nonzero().unbind(dim=1)
    assert set((frames % time).tolist()) == {0}
    assert set(
        ((rows - space // 2) % space).tolist() + ((columns - space // 2) % space).tolist()
    ) == {0}


def test_the_truth_is_a_test_trajectory_and_its_noise_is_as_asked(run: Path) -> None:
    config = CONFIG.model_copy(update={"observation": ObservationConfig(space=1, time=1, std=0.25)})
    seen = scene(config, run)
    data = TrajectoryDataset(shard_paths(run, config), config.simulation.frames, flatten=False)
    place = split(len(data))[2][0]
    assert torch.equal(seen.truth, data.trajectory(place)[: config.assimilation.frames])
    noise = seen.observed - seen.observe(seen.truth)
    assert float(noise.std()) == pytest.approx(0.25, rel=0.05)
    assert torch.equal(seen.observed, scene(config, run).observed)
    assert not torch.equal(
        seen.observed, scene(config.model_copy(update={"seed": 1}), run).observed
    )


def test_interpolation_is_nearer_to_the_truth_than_the_mean_flow(run: Path) -> None:
    config = CONFIG.model_copy(update={"observation": ObservationConfig(space=2)})
    seen = scene(config, run)
    estimate = interpolated(config, run, seen)
    assert estimate.shape == seen.truth.shape
    assert estimate.dtype == seen.truth.dtype
    error = (estimate - seen.truth).square().mean()
    assert float(error) < 0.2 * float(seen.truth.var())


# --- Simulation and weights -----------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(cut=st.integers(0, 6))
def test_a_simulation_goes_on_where_it_was_cut(cut: int) -> None:
    ask = SimulationConfig(
        grid=16, coarsen=2, dt=0.05, spinup=2, frames=4, trajectories=3, per_shard=3
    )
    whole, part, rest = (Simulation(ask, [1, 2, 3]) for _ in range(3))
    for _ in range(ask.spinup + ask.frames):
        whole.step()
    for _ in range(cut):
        part.step()
    rest.load_state_dict(part.state_dict())
    while rest.steps_done < rest.steps_total:
        rest.step()
    assert torch.equal(rest.result(), whole.result())
    assert whole.result().shape == (3, 4, 2, 8, 8)
    alone = Simulation(ask, [2])
    while alone.steps_done < alone.steps_total:
        alone.step()
    assert torch.equal(alone.result()[0], whole.result()[1])


def test_published_weights_make_the_score_that_was_trained(run: Path, tmp_path: Path) -> None:
    data = TrajectoryDataset(shard_paths(run, CONFIG), CONFIG.network.window)
    kernel = window_kernel(CONFIG, *linear_statistics(CONFIG, data))
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.01)
    path = weights_path(tmp_path, 3)
    publish_weights(kernel, path)
    score = trained_score(CONFIG, torch.load(path, weights_only=True))
    window = CONFIG.network.window
    x, t = torch.randn(2, window, COMPONENTS, 16, 16), torch.tensor([0.2, 0.9])
    # A trajectory of one window is scored by one pass.
    wanted = kernel(x.flatten(1, 2), t).unflatten(1, (window, COMPONENTS))
    torch.testing.assert_close(score(x, t), wanted)
    assert not any(p.requires_grad for p in score.parameters())


def test_half_precision_trains_the_real_network(run: Path) -> None:
    data = TrajectoryDataset(shard_paths(run, CONFIG), CONFIG.network.window)
    network = window_kernel(CONFIG, *linear_statistics(CONFIG, data))
    ask = CONFIG.training.model_copy(update={"precision": "bf16", "epochs": 1})
    rows: list[Any] = []
    drawing = Denoising(CONFIG, data, 1, network)
    trainer = Trainer(network, drawing, ask, lambda *row: rows.append(row))
    before = [p.clone() for p in network.parameters()]
    for _ in range(drawing.steps_per_epoch):
        trainer.step()
    assert trainer.skipped == 0
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert 0 < rows[0][1]["validation"] < 1


def test_no_checkpoint_is_ahead_of_the_rows_that_are_durable(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Member(run, "train", 0)
    member.directory.mkdir(parents=True)
    attempt = Attempt(member, 1, StopFlag(os.getpid()), checkpoint_seconds=0.0)
    durable, checked, fsync = 0, 0, os.fsync

    def watch(descriptor: int) -> None:
        nonlocal durable, checked
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        if name.name == "metrics.jsonl":
            durable = os.fstat(descriptor).st_size
        if name.parent == member.checkpoints and name.suffix == ".tmp":
            metrics = member.directory / "metrics.jsonl"
            assert durable == metrics.stat().st_size
            checked += 1
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    found = train(CONFIG, member, attempt)
    steps = CONFIG.training.epochs * -(-16 // CONFIG.training.batch)
    assert checked == steps + 1
    rows = read_metrics(member.directory / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == list(range(1, CONFIG.training.epochs + 1))
    values = [float(row["validation"] or 0) for row in rows if "validation" in row]
    assert found["best_validation"] == min(values)
