"""Stage ``train``: each member trains one score network from a seed of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cluster import Attempt, Member
from jobs.diffusion.config import DiffusionConfig
from jobs.diffusion.pictures import Picture, fit_picture
from jobs.diffusion.scores import perturbation, window_kernel
from jobs.diffusion.simulation import shard_paths
from jobs.outputs import publish_weights, resume, tracker, weights_path
from kernels.sde import denoising_loss
from kernels.wiener import wiener_floor, window_spectrum
from pipelines.seeds import derived_seed, generator
from pipelines.training.loop import Trainer, make_deterministic
from pipelines.trajectories import TrajectoryDataset, split

#: Windows from which mean and spectrum are estimated, at most.
_SPECTRUM_WINDOWS = 2048
#: Held-out windows of a validation.
_VALIDATION_WINDOWS = 64
#: Of these, windows in the pictures of a log.
_PICTURED_WINDOWS = 4


@dataclass(frozen=True)
class Noised:
    """A batch with all that is random about it, drawn before it is cut into parts."""

    x: Tensor
    t: Tensor
    noise: Tensor

    def part(self, part: slice, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Some samples, on the device."""
        x, t, noise = (tensor[part].to(device) for tensor in (self.x, self.t, self.noise))
        return x, t, noise


class Denoising:
    """The denoising objective on windows of trajectories.

    Args:
        config: The job.
        data: The trajectories.
        seed: Of this member.
        network: What is trained.
    """

    def __init__(
        self, config: DiffusionConfig, data: TrajectoryDataset, seed: int, network: nn.Module
    ) -> None:
        self.config, self.data, self.seed, self.network = config, data, seed, network
        self.sde = perturbation(config)
        self.train, self.valid, _ = split(len(data))
        self.held_out = self._validation_batch()

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every training trajectory gives at least one window."""
        return -(-len(self.train) // self.config.training.batch)

    def draw(self, step: int) -> Noised:
        """One random window of each trajectory of the batch, and its noise."""
        size = self.config.training.batch
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.train), generator=generator(self.seed, "order", epoch))
        # The last batch of an epoch is filled up from the start of the epoch's order.
        chosen = order.repeat(-(-size // len(order)) + 1)[place * size :][:size]
        draws = generator(self.seed, "batch", step)
        starts = torch.randint(self.data.starts, (size,), generator=draws)
        x = self.data.windows([self.train[i] for i in chosen.tolist()], starts.tolist())
        if self.config.augment:
            x = shifted(x, draws)
        return _noised(x, draws)

    def losses(self, batch: Noised, part: slice) -> Tensor:
        """Mean squared error of the noise, a sample."""
        device = next(self.network.parameters()).device
        return denoising_loss(self.network, self.sde, *batch.part(part, device))

    def validate(self, network: nn.Module) -> float:
        """The same on held-out windows, with the same noise every time."""
        device = next(network.parameters()).device
        grain = self.config.training.grain
        total = 0.0
        for start in range(0, len(self.held_out.x), grain):
            part = self.held_out.part(slice(start, start + grain), device)
            total += float(denoising_loss(network, self.sde, *part).sum())
        return total / len(self.held_out.x)

    def picture(self, network: nn.Module) -> Picture:
        """What the network makes of some held-out windows."""
        count = min(_PICTURED_WINDOWS, self.config.training.grain)  # as fits on any device
        x, t, noise = self.held_out.part(slice(count), torch.device("cpu"))
        return fit_picture(network, self.sde, x, t, noise)

    def _validation_batch(self) -> Noised:
        draws = generator(self.config.seed, "validation")
        count = _VALIDATION_WINDOWS
        indices = [self.valid[i % len(self.valid)] for i in range(count)]
        starts = torch.randint(self.data.starts, (count,), generator=draws)
        return _noised(self.data.windows(indices, starts.tolist()), draws)


def _noised(x: Tensor, draws: torch.Generator) -> Noised:
    # One time in each of n equal intervals: still uniform, with less variance of the loss
    # (Kingma et al., Variational Diffusion Models, NeurIPS 2021, appendix I.1).
    n = len(x)
    t = (torch.randperm(n, generator=draws) + torch.rand(n, generator=draws)) / n
    return Noised(x, t, torch.randn(x.shape, generator=draws))


def shifted(x: Tensor, draws: torch.Generator) -> Tensor:
    """Windows moved by a symmetry of the flow: any shift in x, quarters of the domain in y.

    Args:
        x: Windows (n, C, ny, nx); the forcing sin 4y does not change under quarters.
        draws: Where the shifts are drawn from.
    """
    rows, columns = x.shape[-2:]
    across = torch.randint(columns, (len(x),), generator=draws).tolist()
    quarters = torch.randint(4, (len(x),), generator=draws).tolist()
    moves = [(quarter * rows // 4, shift) for quarter, shift in zip(quarters, across, strict=True)]
    return torch.stack([w.roll(move, dims=(-2, -1)) for w, move in zip(x, moves, strict=True)])


def linear_statistics(config: DiffusionConfig, data: TrajectoryDataset) -> tuple[Tensor, Tensor]:
    """Mean profile and spectrum of the training windows."""
    train, _, _ = split(len(data))
    count = min(_SPECTRUM_WINDOWS, len(train) * data.starts)
    draws = generator(config.seed, "spectrum")
    indices = [train[i % len(train)] for i in range(count)]
    starts = torch.randint(data.starts, (count,), generator=draws)
    # Every window stands for its shifts by quarters of the domain: they are as likely.
    windows = data.windows(indices, starts.tolist())
    turned = [windows.roll(quarter * windows.shape[-2] // 4, dims=-2) for quarter in range(4)]
    return window_spectrum(torch.cat(turned))


def train(config: DiffusionConfig, member: Member, attempt: Attempt) -> dict[str, float]:
    """Train one network and publish its weights; returns the last validation loss."""
    seed = derived_seed(config.seed, "train", member.index)
    make_deterministic(config.resources.train.cpus, seed)
    data = TrajectoryDataset(shard_paths(member.run, config), config.network.window)
    mean, spectrum = linear_statistics(config, data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = window_kernel(config, mean, spectrum).to(device)
    floor = wiener_floor(spectrum, perturbation(config))
    with tracker(config.tracking, config, member, attempt) as tracking:

        def record(step: int, metrics: Mapping[str, float]) -> None:
            tracking.log(step, {**metrics, "wiener_floor": floor})
            if "validation" in metrics:
                tracking.log_image("fit", objective.picture(trainer.final_network), step)
            # A checkpoint that outlives a power cut must not be ahead of the rows.
            tracking.sync()

        objective = Denoising(config, data, seed, network)
        trainer = Trainer(network, objective, config.training, record, attempt)
        resume(attempt, trainer, tracking)
        for _ in attempt.steps(trainer):
            trainer.step()
    publish_weights(trainer.final_network, weights_path(member.run, member.index))
    return {"best_validation": trainer.best, "wiener_floor": floor, "skipped": trainer.skipped}
