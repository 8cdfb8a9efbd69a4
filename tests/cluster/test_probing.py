"""Laws of fitting a microbatch: the largest there is, found without a trace."""

import copy
import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shortage import Device, run_short_of_memory, sizes
from support.small_work import equal
from torch import Tensor, nn

from cluster import Accumulator, fit_microbatch
from cluster.checkpoints import random_state
from cluster.memory.probing import largest_fitting

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("quick_collection")


@given(st.integers(1, 5000), st.integers(0, 6000))
def test_the_largest_number_is_found_in_logarithmically_many_tries(
    most: int, capacity: int
) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= capacity

    found = largest_fitting(fits, most)
    assert found == min(capacity, most)
    assert all(1 <= number <= most for number in tried)
    assert len(tried) <= 2 * max(found, 1).bit_length() + 1
    assert len(set(tried)) == len(tried)


class Drift(nn.Module):
    """Puts another buffer in the place of its own in every forward pass."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        return x


class Training:
    """A network with every kind of state, on a device of some size."""

    def __init__(self, batch: int, capacity: int, norm: nn.Module | None = None) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(
            *(nn.Linear(5, 7), norm or nn.Identity(), Drift(), nn.Dropout(0.3), nn.Linear(7, 1))
        )
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 0.1)
        self.x, self.device = torch.randn(batch, 5), Device(capacity)
        self.states: list[int] = []

    def loss(self, part: slice) -> Tensor:
        self.states.append(len(self.optimizer.state))
        return self.device.hold(self.net(self.x[part]).square()).sum() / len(self.x)

    def state(self) -> Any:
        gradients = [parameter.grad for parameter in self.net.parameters()]
        parts = (self.net.state_dict(), self.optimizer.state_dict(), gradients)
        return copy.deepcopy([*parts, random_state.capture()])


@given(sizes(), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_the_largest_microbatch_is_found(cut: tuple[int, int, int], capacity: int) -> None:
    batch, grain, ceiling = cut
    training, noted = Training(batch, capacity), list[int]()
    accumulator = Accumulator(batch, ceiling, grain)
    found = fit_microbatch(
        *(accumulator, training.loss, training.net), headroom=0, note=noted.append
    )
    whole = capacity // grain * grain
    assert found == accumulator.microbatch == (ceiling if ceiling <= capacity else whole or grain)
    assert noted[-1] == found
    assert max(noted[:-1]) >= min(found, batch)
    assert accumulator.healed == 0
    assert training.device.used == 0


@pytest.mark.parametrize("steps_before", [0, 2])
def test_trying_leaves_no_trace(steps_before: int) -> None:
    training = Training(16, capacity=9, norm=nn.BatchNorm1d(7))
    for _ in range(steps_before):
        torch.autograd.backward(training.loss(slice(0, 4)))
        training.optimizer.step()
    before, gradients = training.state(), [p.grad for p in training.net.parameters()]
    buffers = dict(training.net.named_buffers())
    training.states.clear()
    accumulator = Accumulator(16, 16, 2)
    fit_microbatch(accumulator, training.loss, training.net, training.optimizer)
    assert equal(training.state(), before)
    after = zip(gradients, (p.grad for p in training.net.parameters()), strict=True)
    assert all(a is b for a, b in after)
    assert all(buffers[name] is buffer for name, buffer in training.net.named_buffers())
    # Each try met the state of the optimizer that later steps meet.
    assert set(training.states) == {len(list(training.net.parameters()))}


def test_an_error_that_is_none_of_memory_passes_and_leaves_no_trace() -> None:
    training = Training(16, capacity=16)
    before = training.state()

    def loss(part: slice) -> Tensor:
        if part.stop > 4:
            raise RuntimeError("shapes differ")
        return training.loss(part)

    with pytest.raises(RuntimeError, match="shapes differ"):
        fit_microbatch(Accumulator(16, 16, 2), loss, training.net, training.optimizer)
    assert equal(training.state(), before)


@pytest.mark.parametrize(
    ("capacity", "headroom", "found"), [(33, 0.25, 24), (33, 0.0, 32), (3, 0.9, 2), (64, 0.5, 64)]
)
def test_headroom_is_left_where_the_device_was_full(
    capacity: int, headroom: float, found: int, caplog: pytest.LogCaptureFixture
) -> None:
    training, accumulator = Training(64, capacity), Accumulator(64, 64, 2)
    with caplog.at_level(logging.INFO, "cluster.memory.probing"):
        fit_microbatch(accumulator, training.loss, training.net, headroom=headroom)
    assert accumulator.microbatch == found
    assert f"microbatch {found} of a batch of 64" in caplog.text


def test_where_not_even_a_grain_fits_the_accumulator_goes_on_by_itself() -> None:
    training, accumulator = Training(16, capacity=2), Accumulator(16, 16, 8)
    assert fit_microbatch(accumulator, training.loss, training.net) == 8
    accumulator.backward(training.loss, training.net.zero_grad)
    assert accumulator.state_dict() == {"microbatch": 2, "grain": 2, "healed": 2}


@pytest.mark.parametrize("wrong", [-0.1, 1.0])
def test_headroom_is_a_fraction(wrong: float) -> None:
    training = Training(4, 4)
    with pytest.raises(ValueError, match=r"headroom: expected a fraction in \[0, 1\), found"):
        fit_microbatch(Accumulator(4, 4, 1), training.loss, training.net, headroom=wrong)


#: A sample's graph, the parameter, its gradient and each of its moments hold 8 MB. In room for
#: ten and a half of these fit the gradient, temporaries of one or two, and the samples.
_REAL_SHORTAGE = """
import gc, json, resource
from pathlib import Path
import torch
from torch import nn
from cluster import Accumulator, OptimizerStep, fit_microbatch

torch.set_num_threads(1)
net = nn.Module()
net.weight = nn.Parameter(torch.ones(2_000_000))
x = torch.linspace(0.1, 1.0, 16)
optimizer = torch.optim.AdamW(net.parameters(), 0.1)

def loss(part):
    return sum((net.weight * value).exp().mean() for value in x[part]) / 16

def zero_grad():
    net.weight.grad = None

optimizer.step()
loss(slice(0, 1)).backward()
zero_grad()
gc.freeze()  # else every try would walk all of torch
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
limit = used + 10 * 8_000_000 + 4_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
alone, both = Accumulator(16, 16, 1), Accumulator(16, 16, 1)
fit_microbatch(alone, loss, net, headroom=0)
fit_microbatch(both, loss, net, optimizer, headroom=0)
step = OptimizerStep(optimizer)
for _ in range(2):
    both.backward(loss, zero_grad)
    step()
print(json.dumps([alone.microbatch, both.microbatch, both.healed]))
"""


def test_under_a_real_limit_the_size_that_is_found_fits() -> None:
    alone, both, healed = run_short_of_memory(_REAL_SHORTAGE)
    # The two moments, and the copy of the parameter to be put back, are in the place of samples.
    assert (6 <= alone <= 9, alone - both, healed) == (True, 3, 0)
