"""Initial weights that decide how long a recurrent network remembers.

All act on torch's own modules of one layer; draws come from torch's global generator, as in the
modules' own initialization.
"""

import torch
from torch import Tensor, nn


def _gates(lstm: nn.LSTM, name: str) -> tuple[Tensor, ...]:
    return lstm.get_parameter(f"{name}_l0").chunk(4)


@torch.no_grad()
def forget_bias(lstm: nn.LSTM, value: float = 1.0) -> None:
    r"""Set the bias of the forget gates: memory lasts some :math:`e^{b}` steps.

    The module has two biases that are added; the other one becomes zero.

    References:
        Gers, Schmidhuber & Cummins 2000; Jozefowicz et al. 2015.
    """
    _gates(lstm, "bias_ih")[1].fill_(value)
    _gates(lstm, "bias_hh")[1].zero_()


@torch.no_grad()
def chrono_forget(bias: Tensor, longest: int) -> Tensor:
    """Fill the biases of forget gates as :func:`chrono` says, and return them.

    Raises:
        ValueError: The longest dependency is not longer than two steps.
    """
    if longest <= 2:
        raise ValueError(f"longest: expected more than 2 steps, found {longest}")
    return bias.uniform_(1, longest - 1).log_()


@torch.no_grad()
def chrono(lstm: nn.LSTM, longest: int, quantiles: bool = False) -> None:
    r"""Spread the time scales of memory up to the longest dependency.

    .. math:: b_f \sim \log U(1, T - 1), \quad b_i = -b_f

    Args:
        lstm: What is initialized.
        longest: T.
        quantiles: Take the distribution's quantiles (n + 1/2) / H in the place of draws, so that
            no seed lacks a time scale.

    References:
        Tallec & Ollivier, Can recurrent neural networks warp time?, ICLR 2018, eq. 16.

    Raises:
        ValueError: The longest dependency is not longer than two steps.
    """
    i, f, _, _ = _gates(lstm, "bias_ih")
    chrono_forget(f, longest)
    if quantiles:
        shares = (torch.arange(len(f)) + 0.5) / len(f)
        f.copy_((1 + (longest - 2) * shares).log())
    i.copy_(-f)
    for other in _gates(lstm, "bias_hh")[:2]:
        other.zero_()


@torch.no_grad()
def identity_recurrence(rnn: nn.RNN) -> None:
    """Make a ReLU network remember: identity matrix, no bias, small input weights (IRNN).

    References:
        Le, Jaitly & Hinton 2015, arXiv:1504.00941.

    Raises:
        ValueError: The nonlinearity is not ReLU.
    """
    if rnn.nonlinearity != "relu":
        raise ValueError(f"an IRNN has ReLU units, found {rnn.nonlinearity}")
    nn.init.normal_(rnn.get_parameter("weight_ih_l0"), std=0.001)
    nn.init.eye_(rnn.get_parameter("weight_hh_l0"))
    for name in ("bias_ih_l0", "bias_hh_l0"):
        nn.init.zeros_(rnn.get_parameter(name))
