"""The Adding Problem: the sum of two marked values of a long sequence (Hochreiter 1997)."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kernels.lstm.initialization import chrono, forget_bias, identity_recurrence

AddingKind = Literal["rnn", "irnn", "lstm", "lstm_forget", "lstm_chrono", "lstm_quantiles"]
"""Plain tanh network; ReLU with identity recurrence; LSTM as torch initializes it, with open
forget gates, with chrono initialization drawn at random, with its quantiles."""


@dataclass(frozen=True)
class AddingSettings:
    """A network for the Adding Problem.

    Args:
        kind: Which network.
        hidden: Size of the state.
        length: Steps of the sequences, for chrono initialization.
        from_mean: Start from saying about 1, the mean of all sums.

    Raises:
        ValueError: There is no such kind, or a size is impossible.
    """

    kind: AddingKind = "lstm_chrono"
    hidden: int = 128
    length: int = 100
    from_mean: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(AddingKind):
            raise ValueError(f"kind: expected one of {get_args(AddingKind)}, found {self.kind}")
        if self.hidden < 1 or self.length < 2:
            raise ValueError(
                f"expected hidden >= 1 and length >= 2, found {self.hidden} and {self.length}"
            )


def adding_batch(samples: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (N, T, 2) of values in [0, 1) and marks, and the sums of the two marked, (N, 1).

    The two places are any two different ones. Whoever always says 1 has an error of 1/6.

    Args:
        samples: N.
        length: T, at least 2.
        generator: On the CPU; equal states give equal batches.
    """
    values = torch.rand(samples, length, generator=generator)
    first = torch.randint(length, (samples, 1), generator=generator)
    # A step of 1 to T - 1 around the circle: never the same place.
    shift = torch.randint(1, length, (samples, 1), generator=generator)
    places = torch.cat((first, (first + shift) % length), dim=1)
    marks = torch.zeros_like(values).scatter_(1, places, 1.0)
    return torch.stack((values, marks), dim=-1), values.gather(1, places).sum(1, keepdim=True)


class AddingNetwork(nn.Module):
    """A recurrent network that reads a sequence and says one number at its end."""

    def __init__(self, settings: AddingSettings) -> None:
        super().__init__()
        self.cell = _cell(settings)
        self.head = nn.Linear(settings.hidden, 1)
        if settings.from_mean:
            nn.init.ones_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences (N, T, 2) to sums (N, 1)."""
        hidden, _ = self.cell(x)
        result: Tensor = self.head(hidden[:, -1])
        return result


def _cell(settings: AddingSettings) -> nn.RNN | nn.LSTM:
    if settings.kind == "rnn":
        return nn.RNN(2, settings.hidden, batch_first=True)
    if settings.kind == "irnn":
        rnn = nn.RNN(2, settings.hidden, nonlinearity="relu", batch_first=True)
        identity_recurrence(rnn)
        return rnn
    lstm = nn.LSTM(2, settings.hidden, batch_first=True)
    if settings.kind == "lstm_forget":
        forget_bias(lstm)
    elif settings.kind in ("lstm_chrono", "lstm_quantiles"):
        chrono(lstm, settings.length, settings.kind == "lstm_quantiles")
    return lstm
