"""What is trained and measured on: densities drawn on the fly, or by stage ``simulate`` to Zarr."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import zarr
from torch import Tensor

from cluster import Attempt, Member
from cluster.records.files import fsync_directory
from jobs.gmm.config import DataConfig, GmmConfig
from kernels.gmm.families import draw_batch, random_edges
from kernels.gmm.gridded import Gridded, Kind
from pipelines.seeds import derived_seed, generator
from pipelines.training.loop import make_deterministic

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Densities on one grid, and what is asked of the refiner.

    Attributes:
        masses: Exact cell masses, (B, N), float32.
        edges: Of the cells, (1, N + 1), float32.
        kind: What the masses are taken for.
        components: Of the mixtures to fit.
        epoch: Of the training, for the schedule of supervision.
    """

    masses: Tensor
    edges: Tensor
    kind: Kind
    components: int
    epoch: int

    def part(self, part: slice, device: torch.device) -> Gridded:
        """Some of the densities, on the device."""
        return Gridded(self.masses[part].to(device), self.edges.to(device), self.kind)


class Source(Protocol):
    """Where the densities of a step come from."""

    def densities(self, step: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cell masses (B, N) and edges (N + 1), as a function of the step alone."""


class Drawn:
    """New densities in every step.

    Args:
        config: Which.
        count: How many a step.
    """

    def __init__(self, config: DataConfig, count: int) -> None:
        self.config, self.count = config, count

    def densities(self, step: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Densities on a grid of their own."""
        edges = random_edges(draws, self.config.points)
        return draw_batch(self.config.families, self.count, edges, draws).masses(), edges


class Stored:
    """Densities of stores, each once in a pass; a batch lies in one store, for it has one grid.

    Args:
        paths: The stores.
        count: Densities a step; it divides those of each store.
        seed: Of the order, which changes from pass to pass.
    """

    def __init__(self, paths: Sequence[Path], count: int, seed: int) -> None:
        groups = [zarr.open_group(path, mode="r") for path in paths]
        self.masses = [_array(group, "masses") for group in groups]
        self.edges = [torch.from_numpy(_array(group, "edges")[:]) for group in groups]
        self.count, self.seed = count, seed
        self.blocks = [
            (store, start)
            for store, masses in enumerate(self.masses)
            for start in range(0, masses.shape[0], count)
        ]

    def densities(self, step: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The densities of one block of a store."""
        turn, place = divmod(step, len(self.blocks))
        order = torch.randperm(len(self.blocks), generator=generator(self.seed, "order", turn))
        store, start = self.blocks[int(order[place])]
        rows = self.masses[store][start : start + self.count]
        return torch.from_numpy(rows), self.edges[store]


def source(config: GmmConfig, run: Path, seed: int) -> Source:
    """Where a member's densities come from."""
    count = config.training.batch
    if not config.data.stored:
        return Drawn(config.data, count)
    return Stored([store_path(run, shard) for shard in range(config.data.shards)], count, seed)


def choose(options: Sequence[T], draws: torch.Generator) -> T:
    """One of several, all as likely."""
    return options[int(torch.randint(len(options), (1,), generator=draws))]


def store_path(run: Path, shard: int) -> Path:
    """Where a store lies in the run directory."""
    return run / "data" / f"densities-{shard:04d}.zarr"


class Simulation:
    """Densities of one store, block by block.

    Args:
        config: The job.
        shard: Which store.
    """

    def __init__(self, config: GmmConfig, shard: int) -> None:
        self.config, self.shard = config, shard
        self.edges = random_edges(generator(config.seed, "grid", shard), config.data.points)
        self.blocks: list[Tensor] = []

    @property
    def steps_done(self) -> int:
        """Blocks drawn."""
        return len(self.blocks)

    @property
    def steps_total(self) -> int:
        """Blocks in all."""
        return self.config.data.per_shard // self.config.training.batch

    def step(self) -> None:
        """Draw one block, which is a batch of every family."""
        draws = generator(self.config.seed, "densities", self.shard, self.steps_done)
        names, count = self.config.data.families, self.config.training.batch
        self.blocks.append(draw_batch(names, count, self.edges, draws).masses())

    def state_dict(self) -> Mapping[str, Any]:
        """The blocks so far."""
        return {"blocks": list(self.blocks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.blocks = list(state["blocks"])


def simulate(config: GmmConfig, member: Member, attempt: Attempt) -> str:
    """Draw the densities of one store and publish it; returns its path."""
    seed = derived_seed(config.seed, "simulate", member.index)
    make_deterministic(config.resources.simulate.cpus, seed)
    simulation = Simulation(config, member.index)
    attempt.restore(simulation)
    for _ in attempt.steps(simulation):
        simulation.step()
    path = store_path(member.run, member.index)
    _write_store(path, torch.cat(simulation.blocks), simulation.edges, config.training.batch)
    return str(path)


def _write_store(path: Path, masses: Tensor, edges: Tensor, rows: int) -> None:
    """Write a store, which appears whole or not at all."""
    scratch = path.with_suffix(".tmp")
    for leftover in (scratch, path):
        shutil.rmtree(leftover, ignore_errors=True)
    group = zarr.create_group(scratch, attributes={"kind": "cell_mass"})
    chunks = (rows, masses.shape[1])
    group.create_array("masses", data=masses.numpy(), chunks=chunks, compressors=None)
    group.create_array("edges", data=edges.numpy(), compressors=None)
    scratch.rename(path)
    fsync_directory(path.parent)


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]
