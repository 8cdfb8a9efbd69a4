import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import flow
from kernels.kolmogorov import KolmogorovSolver
from kernels.spectral import regrid, wavenumbers

DTYPES = [torch.float64, torch.float32]


def developed(solver: KolmogorovSolver, seeds: range, time: float = 1.0) -> Tensor:
    return solver.advance(solver.initial(seeds), time)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Space average of the product of two fields given by coefficients (*, m, n)."""
    weight = torch.full((a.shape[-2], 1), 2.0, dtype=torch.float64)
    weight[0] = 1.0  # the half of the plane that is not carried mirrors all rows but the first
    return (weight * (a.conj() * b).real).sum(dim=(-2, -1))


def stream_function(solver: KolmogorovSolver, state: Tensor) -> Tensor:
    kx, ky = wavenumbers(solver.grid)
    return state / (kx**2 + ky**2).clamp(min=1)


def energy(solver: KolmogorovSolver, state: Tensor) -> Tensor:
    return inner(stream_function(solver, state), state) / 2


def energy_change(solver: KolmogorovSolver, state: Tensor) -> Tensor:
    """Injection less drag less dissipation, from the velocity on the grid."""
    velocity = solver.velocity(state)
    n = solver.grid
    y = 2 * math.pi / n * (torch.arange(n, dtype=torch.float64) + 0.5)
    force = solver.forcing_amplitude * torch.sin(solver.forcing_wavenumber * y).unsqueeze(1)
    injection = (velocity[..., 0, :, :] * force).mean(dim=(-2, -1))
    drag = 2 * solver.drag * flow.kinetic_energy(velocity)
    return injection - drag - 2 / solver.reynolds * flow.enstrophy(velocity)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_velocity_is_free_of_divergence(dtype: torch.dtype, bound: float) -> None:
    solver = KolmogorovSolver(grid=64, dtype=dtype)
    velocity = solver.velocity(developed(solver, range(2))).double()
    assert flow.divergence(velocity).norm() < bound * flow.vorticity(velocity).norm()


def test_grid_vorticity_is_the_curl_of_the_velocity() -> None:
    solver = KolmogorovSolver(grid=32)
    state = solver.initial([3, 4])
    torch.testing.assert_close(flow.vorticity(solver.velocity(state)), solver.vorticity(state))
    torch.testing.assert_close(solver.state(solver.vorticity(state)), state)


def test_advection_equals_a_plain_evaluation_on_a_finer_grid() -> None:
    coarse, fine = KolmogorovSolver(grid=24), KolmogorovSolver(grid=96)
    state = coarse.initial([0, 1, 2])
    omega = fine.vorticity(regrid(state, 96))
    velocity = fine.velocity(regrid(state, 96))
    hat = torch.fft.fft2(omega)
    k = torch.fft.fftfreq(96, d=1 / 96, dtype=torch.float64)
    omega_x, omega_y = (torch.fft.ifft2(1j * d * hat).real for d in (k, k.unsqueeze(1)))
    expected = -(velocity[:, 0] * omega_x + velocity[:, 1] * omega_y)
    expected = regrid(fine.state(expected), 24)
    torch.testing.assert_close(coarse.advection(state), expected, rtol=1e-11, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), grid=st.sampled_from([16, 24, 30, 32]))
def test_advection_conserves_energy_and_enstrophy(seed: int, grid: int) -> None:
    solver = KolmogorovSolver(grid=grid)
    state = solver.initial([seed])
    change = solver.advection(state)
    for dual in (stream_function(solver, state), state):
        scale = (inner(dual, dual) * inner(change, change)).sqrt()
        assert inner(dual, change).abs() < 1e-13 * scale


def test_energy_budget_closes_at_an_instant() -> None:
    solver = KolmogorovSolver(grid=64, reynolds=200.0)
    state = developed(solver, range(3))
    change = inner(stream_function(solver, state), solver.tendency(state))
    torch.testing.assert_close(change, energy_change(solver, state), rtol=1e-11, atol=1e-12)


def test_energy_budget_closes_over_time() -> None:
    solver = KolmogorovSolver(grid=48, reynolds=200.0, dt=0.002)
    first = developed(solver, range(2))
    middle = solver.step(first)
    last = solver.step(middle)
    rates = [energy_change(solver, s) for s in (first, middle, last)]
    simpson = solver.dt / 3 * (rates[0] + 4 * rates[1] + rates[2])
    gained = energy(solver, last) - energy(solver, first)
    torch.testing.assert_close(gained, simpson, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_laminar_flow_is_a_fixed_point(dtype: torch.dtype) -> None:
    solver = KolmogorovSolver(grid=32, reynolds=40.0, drag=0.1, dt=0.02, dtype=dtype)
    state = solver.laminar()
    y = 2 * math.pi / 32 * (torch.arange(32, dtype=dtype) + 0.5)
    u = (torch.sin(4 * y) / (0.1 + 16 / 40)).unsqueeze(1).expand(32, 32)
    torch.testing.assert_close(solver.velocity(state), torch.stack((u, torch.zeros_like(u))))
    drift = (solver.advance(state, 10.0) - state).abs().max() / state.abs().max()
    assert drift < 100 * torch.finfo(dtype).eps


def test_flow_at_rest_accelerates_as_the_exact_solution() -> None:
    solver = KolmogorovSolver(grid=16, reynolds=50.0, drag=0.2, dt=0.1)
    rate = 0.2 + 16 / 50
    expected = solver.laminar() * (1 - math.exp(-rate * 3.0))
    torch.testing.assert_close(solver.advance(solver.zeros(1), 3.0)[0], expected)


def test_forcing_alone_accelerates_linearly() -> None:
    solver = KolmogorovSolver(grid=16, reynolds=math.inf, drag=0.0, dt=0.1)
    u = solver.velocity(solver.advance(solver.zeros(1), 2.0))[0, 0, :, 0]
    y = 2 * math.pi / 16 * (torch.arange(16, dtype=torch.float64) + 0.5)
    torch.testing.assert_close(u, 2.0 * torch.sin(4 * y))


def test_one_wave_decays_exactly() -> None:
    solver = KolmogorovSolver(grid=16, reynolds=10.0, drag=0.3, forcing_amplitude=0.0, dt=0.5)
    state = solver.zeros(1)
    state[0, 2, 3] = torch.tensor(1.5 - 0.5j)
    expected = state * math.exp(-(13 / 10 + 0.3) * 2.0)
    torch.testing.assert_close(solver.advance(state, 2.0), expected)


def test_time_stepping_is_of_fourth_order() -> None:
    finals = []
    for dt in (0.04, 0.02, 0.01):
        solver = KolmogorovSolver(grid=32, reynolds=100.0, dt=dt)
        finals.append(solver.advance(solver.initial(range(4)), 0.8))
    coarse, fine = (finals[0] - finals[1]).norm(), (finals[1] - finals[2]).norm()
    assert 3.8 < math.log2(coarse / fine) < 4.2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trajectory_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    solver = KolmogorovSolver(grid=128, dtype=dtype)
    seeds = list(range(11))  # more than one chunk, the last one short
    together = solver.advance(solver.initial(seeds), 0.1)
    for index in (0, 3, 10):
        alone = solver.advance(solver.initial([seeds[index]]), 0.1)
        assert torch.equal(together[index], alone[0])
    back = solver.advance(solver.initial(seeds[::-1]), 0.1)
    assert torch.equal(together, back.flip(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_splitting_a_run_changes_no_bit(dtype: torch.dtype) -> None:
    solver = KolmogorovSolver(grid=48, dtype=dtype)
    start = solver.initial(range(5))
    kept = start.clone()
    whole = solver.advance(start, 0.3)
    parts = solver.advance(solver.step(solver.advance(start, 0.2)), 0.09)
    assert torch.equal(whole, parts)
    assert torch.equal(whole, KolmogorovSolver(grid=48, dtype=dtype).advance(start, 0.3))
    assert torch.equal(start, kept)


@pytest.mark.parametrize(("axis", "cells"), [(-1, 5), (-2, 8), (-2, 16)])
def test_solver_commutes_with_the_symmetries_of_the_forcing(axis: int, cells: int) -> None:
    solver = KolmogorovSolver(grid=32, reynolds=100.0)  # any x, a quarter of the square in y
    omega = solver.vorticity(solver.initial([1, 2]))
    moved = solver.advance(solver.state(omega.roll(cells, dims=axis)), 0.5)
    rolled = solver.vorticity(solver.advance(solver.state(omega), 0.5)).roll(cells, dims=axis)
    torch.testing.assert_close(solver.vorticity(moved), rolled, rtol=0, atol=1e-10)


def test_single_precision_follows_double_precision() -> None:
    double, single = (KolmogorovSolver(grid=64, dtype=d) for d in DTYPES)
    a = double.velocity(developed(double, range(2)))
    b = single.velocity(developed(single, range(2)))
    assert (a - b).norm() < 1e-5 * a.norm()


def test_initial_flow_is_named_by_its_seed_alone() -> None:
    solver = KolmogorovSolver(grid=64)
    states = solver.initial([5, 6, 7])
    assert torch.equal(states[1:2], solver.initial([6]))
    assert not torch.equal(states[0], states[1])
    fine = KolmogorovSolver(grid=128).initial([5, 6, 7])
    torch.testing.assert_close(regrid(fine, 64), states)


@pytest.mark.parametrize("speed", [3.0, 7.0])
def test_initial_flow_has_the_speed_asked_for(speed: float) -> None:
    solver = KolmogorovSolver(grid=64)
    velocity = solver.velocity(solver.initial(range(4), maximum_velocity=speed))
    largest = velocity.norm(dim=1).amax(dim=(-2, -1))
    torch.testing.assert_close(largest, torch.full_like(largest, speed))
    spectrum = flow.energy_spectrum(velocity).mean(dim=0)
    assert 3 <= int(spectrum.argmax()) <= 6


def test_statistics_match_the_published_trajectories() -> None:
    # The bounds are the spread of the published set. The seeds are fixed: at lag 8 one trajectory
    # scatters by .06, so that sixteen others may lie outside (docs/solver.md has the means of 96).
    solver = KolmogorovSolver(dtype=torch.float32)
    state = solver.advance(solver.initial(range(64, 80)), 64 * 0.2)
    frames = []
    for _ in range(64):
        state = solver.advance(state, 0.2)
        frames.append(flow.coarsen(solver.velocity(state), 2))
    x = torch.stack(frames, dim=1)
    rms = flow.vorticity(x).square().mean().sqrt().item()
    assert flow.kinetic_energy(x).mean().item() == pytest.approx(0.984, abs=0.06)
    assert rms == pytest.approx(4.45, abs=0.2)
    found = flow.time_correlation(x, (1, 4, 8)).mean(dim=0).tolist()
    assert found == pytest.approx([0.966, 0.702, 0.406], abs=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": 7}, "even grid"),
        ({"grid": 6}, "at least 8 points, found 6"),
        ({"reynolds": 0.0}, "reynolds > 0"),
        ({"reynolds": math.nan}, "reynolds > 0"),
        ({"drag": -0.1}, "drag >= 0"),
        ({"forcing_wavenumber": 43}, "forcing_wavenumber <= 42, found 43"),
        ({"dt": 0.0}, "dt > 0"),
        ({"dtype": torch.float16}, "torch.float16"),
    ],
)
def test_bad_parameters_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KolmogorovSolver(**change)


def test_bad_states_and_times_are_named() -> None:
    solver = KolmogorovSolver(grid=16)
    with pytest.raises(ValueError, match=r"expected a state .* found \(1, 11, 32\)"):
        solver.step(KolmogorovSolver(grid=32).zeros(1))
    with pytest.raises(ValueError, match=r"of torch\.complex128, found"):
        solver.velocity(KolmogorovSolver(grid=16, dtype=torch.float32).zeros(1))
    with pytest.raises(ValueError, match=r"multiple of dt = 0.01, found time = 0.025"):
        solver.advance(solver.zeros(1), 0.025)
    with pytest.raises(ValueError, match=r"found time = -0\.1"):
        solver.advance(solver.zeros(1), -0.1)
    with pytest.raises(ValueError, match="at least one seed"):
        solver.initial([])
    with pytest.raises(ValueError, match="expected vorticity"):
        solver.state(torch.zeros(16, 8))
    with pytest.raises(ValueError, match="no laminar flow"):
        KolmogorovSolver(grid=16, reynolds=math.inf, drag=0.0).laminar()


def test_an_unstable_run_names_the_lost_trajectory() -> None:
    solver = KolmogorovSolver(grid=32, dt=0.5)
    state = solver.initial([0, 1])
    state[1] *= 1e3
    with pytest.raises(FloatingPointError, match=r"trajectories \[1\]; a smaller dt"):
        solver.advance(state, 1.5)
