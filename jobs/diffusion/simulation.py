"""Stage ``simulate``: each member simulates one shard of trajectories into one HDF5 file."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster import Attempt, Member
from jobs.diffusion.config import DiffusionConfig, SimulationConfig
from kernels.flow import coarsen
from kernels.kolmogorov import KolmogorovSolver
from pipelines.config import digest
from pipelines.seeds import derived_seed
from pipelines.training.loop import make_deterministic
from pipelines.trajectories import write_trajectories


class Simulation:
    """Trajectories of one shard, advanced frame by frame.

    Args:
        config: What to simulate.
        seeds: One a trajectory.
    """

    def __init__(self, config: SimulationConfig, seeds: list[int]) -> None:
        self.config = config
        self.solver = KolmogorovSolver(
            config.grid,
            config.reynolds,
            config.drag,
            dt=config.dt,
            dtype=getattr(torch, config.precision),
        )
        self.state = self.solver.initial(seeds)
        self.kept: list[Tensor] = []
        self.steps_done = 0

    @property
    def steps_total(self) -> int:
        """Frames to simulate, those of the spin-up included."""
        return self.config.spinup + self.config.frames

    def step(self) -> None:
        """Advance by one frame."""
        self.state = self.solver.advance(self.state, self.config.frame)
        self.steps_done += 1
        if self.steps_done > self.config.spinup:
            velocity = coarsen(self.solver.velocity(self.state), self.config.coarsen)
            self.kept.append(velocity.float())

    def state_dict(self) -> dict[str, Any]:
        """State, frames kept, position."""
        return {"state": self.state, "kept": list(self.kept), "steps_done": self.steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.state, self.kept = state["state"], list(state["kept"])
        self.steps_done = state["steps_done"]

    def result(self) -> Tensor:
        """The frames kept, (trajectories, frames, 2, size, size)."""
        return torch.stack(self.kept, dim=1)


def shard_path(run: Path, shard: int) -> Path:
    """Where a shard lies in the run directory."""
    return run / "data" / f"trajectories-{shard:04d}.h5"


def shard_paths(run: Path, config: DiffusionConfig) -> list[Path]:
    """All shards of a run, in order."""
    return [shard_path(run, shard) for shard in range(config.simulation.shards)]


def simulate(config: DiffusionConfig, member: Member, attempt: Attempt) -> str:
    """Simulate one shard and publish it; returns the path of the file."""
    seed = derived_seed(config.seed, "simulate", member.index)
    make_deterministic(config.resources.simulate.cpus, seed)
    ask = config.simulation
    first = member.index * ask.per_shard
    numbers = range(first, min(first + ask.per_shard, ask.trajectories))
    seeds = [derived_seed(config.seed, "trajectory", number) for number in numbers]
    simulation = Simulation(ask, seeds)
    attempt.restore(simulation)
    for _ in attempt.steps(simulation):
        simulation.step()
    path = shard_path(member.run, member.index)
    path.parent.mkdir(exist_ok=True)
    attributes = ask.model_dump(mode="json") | {
        "config_digest": digest(ask),
        "first_trajectory": first,
        "seeds": [str(seed) for seed in seeds],
        "yaoki": version("yaoki"),
    }
    write_trajectories(path, simulation.result().numpy(), attributes)
    return str(path)
