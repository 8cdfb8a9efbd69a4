"""Time and accuracy of the Kolmogorov solver beside exponax, interleaved in one run.

Both solvers start from the same flow and take the same steps on the same grid, at the same
precision, on one thread of one core: wall and processor time agree unless the machine is shared.
Accuracy is the relative distance (vorticity, L2) from a float64 run of ours with an eighth of the
step; that reference itself is checked against exponax at that step.

    python -m benchmarks.solver                    # times, accuracies, ratio
    python -m benchmarks.solver --statistics 96    # flow statistics of 96 trajectories
"""

import argparse
import importlib
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 "
    + os.environ.get("XLA_FLAGS", "")
)

import torch
from torch import Tensor

from kernels.flow import coarsen, kinetic_energy, time_correlation, vorticity
from kernels.kolmogorov import KolmogorovSolver

GRID, DT, FRAME = 128, 0.01, 0.2
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


class Exponax:
    """The same flow in exponax.

    There axis 0 is x, values are at cell corners, and the velocity (psi_y, -psi_x) is taken from
    the field with laplacian(psi) = field: the field is minus the curl. Hence the minus signs.
    """

    def __init__(self, order: int, precision: str, dt: float = DT) -> None:
        jax, exponax = importlib.import_module("jax"), importlib.import_module("exponax")
        jax.config.update("jax_enable_x64", True)
        self.jnp, self.real = jax.numpy, jax.numpy.dtype(precision)
        settings = {"diffusivity": 1e-3, "drag": -0.1, "injection_scale": -1.0, "order": order}
        settings["dealiasing_fraction"] = 0.68  # keeps wavenumbers to 42, as ours; 2/3: to 41
        stepper = exponax.stepper.KolmogorovFlowVorticity(2, 2 * math.pi, GRID, dt, **settings)
        # Coefficients in double precision would silently promote a float32 run.
        stepper = jax.tree.map(
            lambda leaf: self._cast(leaf) if isinstance(leaf, jax.Array) else leaf, stepper
        )

        def frame(state: Any) -> Any:
            steps = round(FRAME / dt)
            return jax.lax.fori_loop(0, steps, lambda _, w: stepper.step_fourier(w), state)

        self.frame = jax.jit(frame)

    def _cast(self, array: Any) -> Any:
        jnp = self.jnp
        if jnp.iscomplexobj(array):
            return array.astype(jnp.result_type(self.real, jnp.complex64))
        return array.astype(self.real) if jnp.issubdtype(array.dtype, jnp.floating) else array

    def load(self, omega: Tensor) -> Any:
        """State of one vorticity field (y, x) at cell centers."""
        at_corners = -_shift(omega.double(), -0.5).T.numpy()
        return self.jnp.fft.rfft2(self.jnp.asarray(at_corners[None], dtype=self.real))

    def read(self, state: Any) -> Tensor:
        """Vorticity (y, x) at cell centers, of the modes that enter its nonlinear term; the others
        collect what is transferred to them and do not act back."""
        values = -self.jnp.fft.irfft2(state, s=(GRID, GRID))[0].T
        solver = KolmogorovSolver(GRID)
        omega = _shift(torch.tensor(values.tolist(), dtype=torch.float64), 0.5)
        return solver.vorticity(solver.state(omega))


def _shift(omega: Tensor, cells: float) -> Tensor:
    """The field at points moved by a fraction of a cell along both axes."""
    k = torch.fft.fftfreq(GRID, d=1 / GRID, dtype=torch.float64)
    angle = 2 * math.pi / GRID * cells * (k.unsqueeze(1) + k)
    moved: Tensor = torch.fft.ifft2(torch.fft.fft2(omega) * torch.exp(1j * angle)).real
    return moved


def developed(batch: int) -> Tensor:
    """Turbulent vorticity fields to start from, (batch, n, n), float64."""
    solver = KolmogorovSolver(GRID, dt=DT)
    return solver.vorticity(solver.advance(solver.initial(range(batch)), 10.0))


def reference(omega: Tensor, frames: int) -> Tensor:
    solver = KolmogorovSolver(GRID, dt=DT / 8)
    return solver.vorticity(solver.advance(solver.state(omega), frames * FRAME))


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@dataclass
class Entry:
    """One contender: what to time, how many trajectories that moves, how well it does."""

    name: str
    call: Callable[[], object]
    trajectories: int
    error: float
    samples: list[tuple[float, float]] = field(default_factory=list)

    def sample(self) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        self.call()
        self.samples.append((time.perf_counter() - wall, time.process_time() - processor))

    def cost(self, clock: int) -> float:
        """Median milliseconds a trajectory: wall (0) or processor (1)."""
        return 1e3 * statistics.median(pair[clock] for pair in self.samples) / self.trajectories


def our_entries(precision: str, omega: Tensor, expected: Tensor, frames: int) -> list[Entry]:
    solver = KolmogorovSolver(GRID, dt=DT, dtype=PRECISIONS[precision])
    state = solver.state(omega)
    end = solver.vorticity(solver.advance(state[:1], frames * FRAME))[0]
    error = distance(end, expected)
    return [
        Entry(f"ours, batch of {len(b)}", partial(solver.advance, b, FRAME), len(b), error)
        for b in (state, state[:1])
    ]


def exponax_entry(order: int, precision: str, start: Tensor, expected: Tensor, n: int) -> Entry:
    peer = Exponax(order, precision)
    first = last = peer.load(start)
    for _ in range(n):
        last = peer.frame(last)

    def call() -> None:
        peer.frame(first).block_until_ready()

    return Entry(f"exponax ETDRK{order}", call, 1, distance(peer.read(last), expected))


def compare(precision: str, batch: int, rounds: int, orders: tuple[int, ...]) -> None:
    """Print milliseconds a frame and trajectory, accuracy after one time unit, and the ratios."""
    omega, frames = developed(batch), round(1 / FRAME)
    expected = reference(omega[:1], frames)[0]
    entries = our_entries(precision, omega, expected, frames)
    peers = [exponax_entry(order, precision, omega[0], expected, frames) for order in orders]
    for turn in range(rounds + 1):  # taking turns, so that a loaded machine is unfair to none
        for entry in (*entries, *peers):
            if turn:
                entry.sample()
            else:
                entry.call()  # compiles, fills caches
    print(f"\n{precision}, {GRID} x {GRID}, dt = {DT}, one frame = {FRAME} time units")
    print(f"{'':20s}{'wall ms':>10s}{'cpu ms':>10s}{'error at t = 1':>16s}")
    for e in (*entries, *peers):
        error = f"{e.error:.1e}" if math.isfinite(e.error) else "diverges"
        print(f"{e.name:20s}{e.cost(0):10.2f}{e.cost(1):10.2f}{error:>16s}")
    for peer in peers:
        wall, cpu = (entries[0].cost(clock) / peer.cost(clock) for clock in (0, 1))
        print(f"{entries[0].name} / {peer.name}: {wall:.2f} wall, {cpu:.2f} cpu")


def check_reference() -> None:
    """Print how far the two codes lie apart at an eighth of the step, in double precision."""
    omega, peer = developed(1), Exponax(4, "float64", dt=DT / 8)
    state = peer.load(omega[0])
    for _ in range(round(1 / FRAME)):
        state = peer.frame(state)
    apart = distance(peer.read(state), reference(omega, round(1 / FRAME))[0])
    print(f"reference (dt = {DT / 8}): ours and exponax ETDRK4 differ by {apart:.1e} at t = 1")


def flow_statistics(trajectories: int) -> None:
    """Print means over frames 64 to 128, coarsened to 64 x 64, and their standard errors."""
    solver = KolmogorovSolver(GRID, dt=DT, dtype=torch.float32)
    columns: list[Tensor] = []
    for first in range(0, trajectories, 16):
        seeds = range(first, min(first + 16, trajectories))
        state, frames = solver.advance(solver.initial(seeds), 64 * FRAME), []
        for _ in range(64):
            state = solver.advance(state, FRAME)
            frames.append(coarsen(solver.velocity(state), 2))
        x = torch.stack(frames, dim=1)
        rms = vorticity(x).square().mean(dim=(-3, -2, -1)).sqrt()
        energy, lagged = kinetic_energy(x).mean(dim=-1), time_correlation(x, (1, 4, 8))
        columns.append(torch.cat((energy[:, None], rms[:, None], lagged), dim=1))
        print(f"\r{seeds.stop} of {trajectories} trajectories", end="", file=sys.stderr, flush=True)
    table = torch.cat(columns)
    names = ("energy", "vorticity rms", "correlation 1", "correlation 4", "correlation 8")
    print(f"\n{'':16s}{'mean':>8s}{'s.e.':>8s}{'s.d.':>8s}   of {trajectories} trajectories")
    for name, column in zip(names, table.T, strict=True):
        deviation = column.std()
        print(f"{name:16s}{column.mean():8.4f}{deviation / trajectories**0.5:8.4f}{deviation:8.4f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="trajectories in our batch")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved timings of each")
    parser.add_argument("--statistics", type=int, metavar="N", help="flow statistics instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.statistics:
        flow_statistics(options.statistics)
        return 0
    if hasattr(os, "sched_setaffinity"):  # one core for both, before JAX makes its threads
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peer = importlib.util.find_spec("exponax") is not None
    if peer:
        check_reference()
    else:
        print("exponax is missing, so only our times follow: pip install 'yaoki[bench]'")
    orders = (2, 4) if peer else ()
    for precision in PRECISIONS:
        compare(precision, options.batch, options.rounds, orders)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
