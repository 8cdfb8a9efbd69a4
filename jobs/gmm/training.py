"""Stage ``train``: each member trains one refiner, at its point of the sweep, from its seed."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cluster import Attempt, Member
from jobs.gmm.config import GmmConfig
from jobs.gmm.densities import Batch, Source, choose, source
from jobs.gmm.health import health
from jobs.outputs import publish_weights, resume, tracker, weights_path
from kernels.gmm.families import draw_batch, uniform_edges
from kernels.gmm.gridded import Gridded, kl_divergence
from kernels.gmm.refiner import Refiner, RefinerConfig
from kernels.gmm.supervision import supervised_loss
from pipelines.seeds import derived_seed, generator
from pipelines.training.guard import Guard, Note
from pipelines.training.loop import Trainer, make_deterministic

#: Of fewer steps than these, as many may be skipped as of these.
_SKIP_MINIMUM = 1000


class Fitting:
    """The objective: the divergence of the fitted mixtures from the densities.

    Args:
        config: The member's configuration.
        data: Where its densities come from.
        seed: Of this member.
        network: What is trained.
    """

    def __init__(self, config: GmmConfig, data: Source, seed: int, network: Refiner) -> None:
        self.config, self.data, self.seed, self.network = config, data, seed, network
        self.held_out = validation_densities(config)
        self.health: dict[str, float] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return self.config.data.steps_per_epoch

    def draw(self, step: int) -> Batch:
        """The densities of a step, and the mixtures to fit to them."""
        draws = generator(self.seed, "batch", step)
        ask = self.config.data
        components, kind = choose(ask.components, draws), choose(ask.kinds, draws)
        masses, edges = self.data.densities(step, draws)
        epoch = step // self.steps_per_epoch
        return Batch(masses.float(), edges[None].float(), kind, components, epoch)

    def losses(self, batch: Batch, part: slice) -> Tensor:
        """The supervised loss, a density."""
        gridded = batch.part(part, _device(self.network))
        mixtures = self.network(gridded, batch.components)
        schedule = self.config.supervision.schedule(batch.epoch)
        mean = supervised_loss(mixtures, gridded, schedule, batch.epoch)
        # The mean stands for each of them: what counts is the sum.
        return mean.expand(len(gridded.masses))

    def validate(self, network: nn.Module) -> float:
        """Mean divergence on fixed densities over all numbers of components; notes the health."""
        gridded = self.held_out.to(str(_device(network)))
        fits = [network(gridded, k)[-1] for k in self.config.evaluation.components]
        self.health = health(gridded, fits)
        divergence = torch.stack([kl_divergence(gridded, fit) for fit in fits])
        return float(divergence.double().mean())


def validation_densities(config: GmmConfig) -> Gridded:
    """What is validated on: families that are trained on, the same densities for all members."""
    draws = generator(config.seed, "validation")
    edges = uniform_edges(config.evaluation.points)
    batch = draw_batch(config.data.families, config.evaluation.validation, edges, draws)
    return Gridded(batch.masses().float(), edges[None].float())


def untrained(config: GmmConfig) -> Refiner:
    """The network of a configuration."""
    return Refiner(RefinerConfig(**dict(config.refiner)))


def train(config: GmmConfig, member: Member, attempt: Attempt) -> dict[str, float]:
    """Train one refiner and publish its weights; returns its best validation and its skips."""
    mine = config.member_config(member.index)
    seed = derived_seed(config.seed, "train", config.seed_number(member.index))
    make_deterministic(config.resources.train.cpus, seed)
    network = untrained(mine).to("cuda" if torch.cuda.is_available() else "cpu")
    with tracker(config.tracking, config, member, attempt) as tracking:
        objective = Fitting(mine, source(mine, member.run, seed), seed, network)

        def record(step: int, metrics: Mapping[str, float]) -> None:
            told = objective.health if "validation" in metrics else {}
            tracking.record(step, {**metrics, **told})

        guard = guard_of(mine, member, tracking.record)
        trainer = Trainer(network, objective, mine.training, record, attempt, guard)
        resume(attempt, trainer, tracking)
        for _ in attempt.steps(trainer):
            trainer.step()
    publish_weights(trainer.final_network, weights_path(member.run, member.index))
    return {"best_validation": trainer.best, "skipped": trainer.skipped}


def guard_of(config: GmmConfig, member: Member, note: Note) -> Guard:
    """What becomes of steps that are not finite: kept in ``skipped/`` of the member, and noted."""
    return Guard(
        config.training.max_skipped,
        _SKIP_MINIMUM,
        member.directory / "skipped",
        config.tracking.keep_skipped,
        note,
        "'python -m jobs.gmm.replay FILE'",
        config.tracking.detect_anomaly,
    )


def trained(config: GmmConfig, run: Path, member: int) -> Refiner:
    """A member's trained network, on the CPU."""
    network = untrained(config.member_config(member))
    weights = torch.load(weights_path(run, member), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
