"""The Adding Problem and the networks for it."""

import math
from typing import Any, cast, get_args

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from kernels.lstm import (
    AddingNetwork,
    AddingSettings,
    adding_batch,
    chrono,
    forget_bias,
    identity_recurrence,
)
from kernels.lstm.adding import AddingKind


@settings(deadline=None)
@drawn(length=st.integers(2, 40), seed=st.integers(0, 2**31))
def test_two_different_places_are_marked_and_their_values_are_the_sum(
    length: int, seed: int
) -> None:
    x, y = adding_batch(30, length, torch.Generator().manual_seed(seed))
    assert x.shape == (30, length, 2)
    values, marks = x.unbind(-1)
    assert torch.equal(marks.sum(1), torch.full((30,), 2.0))
    assert ((marks == 0) | (marks == 1)).all()
    assert ((values >= 0) & (values < 1)).all()
    torch.testing.assert_close((values * marks).sum(1, keepdim=True), y)


def test_every_pair_of_places_is_as_likely_and_one_is_the_best_constant() -> None:
    x, y = adding_batch(60_000, 4, torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    pairs = torch.bincount((x[..., 1] @ weights).long(), minlength=16)
    seen = pairs[pairs > 0].double()
    assert len(seen) == 6
    assert ((seen / 10_000 - 1).abs() < 0.05).all()
    assert abs(float((y - 1).square().mean()) - 1 / 6) < 0.005


def test_equal_generators_give_equal_batches() -> None:
    a, b = (adding_batch(5, 9, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


@pytest.mark.parametrize("kind", get_args(AddingKind))
def test_every_network_reads_a_sequence_to_its_first_step(kind: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AddingNetwork(AddingSettings(kind, hidden=16, length=10)).double()
    x = torch.rand(4, 10, 2, dtype=torch.float64, requires_grad=True)
    y = network(x)
    assert y.shape == (4, 1)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope[:, 0].abs().sum(-1) > 0).all()


def _biases(lstm: nn.LSTM) -> list[torch.Tensor]:
    biases = (lstm.get_parameter(f"bias_{side}_l0").detach() for side in ("ih", "hh"))
    return list(torch.stack(tuple(biases)).sum(0).chunk(4))


def test_forget_gates_start_as_open_as_is_asked() -> None:
    lstm = nn.LSTM(2, 64)
    forget_bias(lstm, 2.5)
    assert torch.equal(_biases(lstm)[1], torch.full((64,), 2.5))


def test_chrono_spreads_time_scales_up_to_the_longest() -> None:
    """1 / (1 - f) - 1 = e^b is uniform on 1 ... T - 1, and the input gate is the rest."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lstm = nn.LSTM(2, 4096)
        chrono(lstm, 750)
    i, f, _, _ = _biases(lstm)
    assert torch.equal(i, -f)
    scales = f.exp().sort().values
    uniform = torch.linspace(1, 749, 4096)
    assert (scales - uniform).abs().max() < 749 * 2 / math.sqrt(4096)
    torch.testing.assert_close(i.sigmoid(), 1 - f.sigmoid(), rtol=1e-4, atol=1e-6)


def test_the_quantiles_of_chrono_are_the_same_for_every_seed() -> None:
    lstms = [nn.LSTM(2, 10), nn.LSTM(2, 10)]
    for lstm in lstms:
        chrono(lstm, 102, quantiles=True)
    gates = [torch.stack(_biases(lstm)[:2]) for lstm in lstms]
    assert torch.equal(gates[0], gates[1])
    i, f = gates[0]
    assert torch.equal(i, -f)
    torch.testing.assert_close(f.exp(), torch.arange(6.0, 106.0, 10))


def test_a_network_may_start_from_the_mean() -> None:
    x, _ = adding_batch(50, 10, torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AddingNetwork(AddingSettings("lstm_quantiles", length=10, from_mean=True))
    assert abs(network(x).mean().item() - 1) < 0.1


def test_an_irnn_keeps_what_it_has_seen() -> None:
    rnn = nn.RNN(2, 8, nonlinearity="relu", batch_first=True)
    identity_recurrence(rnn)
    state = torch.rand(1, 3, 8)
    _, last = rnn(torch.zeros(3, 100, 2), state)
    assert torch.equal(last, state)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: chrono(nn.LSTM(2, 3), 2), "longest: expected more than 2 steps, found 2"),
        (lambda: identity_recurrence(nn.RNN(2, 3)), "an IRNN has ReLU units, found tanh"),
        (lambda: AddingSettings(cast(AddingKind, "gru")), "kind: expected one of .*lstm_chrono"),
        (lambda: AddingSettings(length=1), "expected hidden >= 1 and length >= 2"),
    ],
)
def test_what_cannot_be_is_refused(call: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()
