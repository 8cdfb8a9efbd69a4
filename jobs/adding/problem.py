"""The sequences of the Adding Problem: what is trained on and what is measured on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jobs.adding.config import AddingConfig
from kernels.lstm import adding_batch
from pipelines.seeds import generator

#: Sequences that are measured at once.
_AT_ONCE = 500


@dataclass(frozen=True)
class Sequences:
    """Sequences and their sums.

    Attributes:
        x: Values and marks, (N, T, 2).
        y: Sums of the two marked values, (N, 1).
    """

    x: Tensor
    y: Tensor


class Adding:
    """The objective: the squared error of the sum.

    Args:
        config: Of one member.
        seed: Of its sequences.
        network: What is trained.
    """

    def __init__(self, config: AddingConfig, seed: int, network: nn.Module) -> None:
        self.config, self.seed, self.network = config, seed, network
        self.held_out = measured_on(config, "validation")
        count = config.chosen.sequences
        self.fixed = _drawn(count, config.length, seed, "sequences") if count else None

    @property
    def steps_per_epoch(self) -> int:
        """Steps between validations."""
        return self.config.chosen.validate_every

    def draw(self, step: int) -> Sequences:
        """The sequences of a step: new ones, or the next of those there are."""
        batch = self.config.chosen.batch
        if self.fixed is None:
            return _drawn(batch, self.config.length, self.seed, "batch", step)
        count = len(self.fixed.x)
        turn, place = divmod(step, count // batch)
        order = torch.randperm(count, generator=generator(self.seed, "order", turn))
        chosen = order[place * batch : (place + 1) * batch]
        return Sequences(self.fixed.x[chosen], self.fixed.y[chosen])

    def losses(self, batch: Sequences, part: slice) -> Tensor:
        """Squared errors, one a sequence."""
        device = next(self.network.parameters()).device
        error: Tensor = self.network(batch.x[part].to(device)) - batch.y[part].to(device)
        return error.square().squeeze(-1)

    def validate(self, network: nn.Module) -> float:
        """The mean squared error on the validation sequences."""
        return squared_error(network, self.held_out)


def measured_on(config: AddingConfig, purpose: str) -> Sequences:
    """The sequences of a member's length for ``validation`` or ``test``, the same for all."""
    count: int = getattr(config.evaluation, purpose)
    return _drawn(count, config.length, config.seed, purpose, config.length)


def predicted(network: nn.Module, sequences: Sequences) -> Tensor:
    """What a network says of sequences, (N), on the CPU."""
    device = next(network.parameters()).device
    starts = range(0, len(sequences.x), _AT_ONCE)
    with torch.no_grad():
        parts = [network(sequences.x[n : n + _AT_ONCE].to(device)) for n in starts]
    return torch.cat(parts).squeeze(-1).cpu()


def squared_error(network: nn.Module, sequences: Sequences) -> float:
    """Mean squared error, summed in float64."""
    error = predicted(network, sequences) - sequences.y.squeeze(-1)
    return float(error.double().square().mean())


def _drawn(count: int, length: int, seed: int, *path: str | int) -> Sequences:
    # The generator starts from the number of the step: no state is carried from step to step.
    return Sequences(*adding_batch(count, length, generator(seed, *path)))
