"""Laws of the accumulator: what fits on the device never changes what the optimizer sees."""

import logging
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shortage import Problem, refuse, run_short_of_memory, sizes
from support.small_work import equal
from torch import Tensor

from cluster.checkpoints import random_state
from cluster.memory.accumulator import Accumulator
from cluster.memory.refusal import DeviceOutOfMemoryError

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("quick_collection")

#: A sample's graph holds 8 MB, so the whole batch 64 MB and half of it 32 MB. The room is
#: between the two with several samples to spare on either side.
_REAL_SHORTAGE = """
import json, resource
from pathlib import Path
import torch
from cluster.memory.accumulator import Accumulator

torch.set_num_threads(1)
w = torch.ones(1, requires_grad=True)
x = torch.linspace(0.1, 1.0, 8)

def loss(part):
    return sum((w * value).expand(2_000_000).exp().mean() for value in x[part]) / 8

def clear():
    w.grad = None

def run(microbatch):
    accumulator = Accumulator(8, microbatch=microbatch, grain=1)
    return accumulator, accumulator.backward(loss, clear), w.grad.item()

_, total, gradient = run(1)
status = Path("/proc/self/status").read_text()
used = int(status.split("VmSize:")[1].split()[0]) * 1024
limit = used + 6 * 8_000_000 + 4_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
accumulator, total_after, gradient_after = run(8)
print(json.dumps({
    "sizes": accumulator.state_dict(),
    "equal": (total, gradient) == (total_after, gradient_after),
}))
"""


@given(sizes(), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_the_microbatch_does_not_enter_the_gradient(
    cut: tuple[int, int, int], dropout: float
) -> None:
    batch, grain, microbatch = cut
    problem = Problem(batch, dropout)
    plain = problem.gradients(Accumulator(batch, microbatch=batch, grain=grain))
    assert equal(problem.gradients(Accumulator(batch, microbatch, grain)), plain)


@given(sizes(), st.data())
@settings(max_examples=40, deadline=None)
def test_healing_leaves_no_trace_but_the_sizes(
    cut: tuple[int, int, int], data: st.DataObject
) -> None:
    batch, grain, microbatch = cut
    grains = -(-batch // grain)
    call = data.draw(st.integers(1, grains), label="call that is refused")
    where = data.draw(st.sampled_from(["forward", "backward"]))
    problem, twin = Problem(batch, 0.3), Problem(batch, 0.3)
    refuse(problem, call, where)
    accumulator = Accumulator(batch, microbatch, grain)
    if microbatch == 1:
        with pytest.raises(DeviceOutOfMemoryError):
            problem.gradients(accumulator)
        return
    found = problem.gradients(accumulator)
    after = random_state.capture()
    assert accumulator.healed == 1
    assert accumulator.microbatch < microbatch
    expected = twin.gradients(Accumulator(batch, accumulator.microbatch, accumulator.grain))
    assert equal(found, expected)
    assert equal(after, random_state.capture())
    if microbatch > grain:
        untouched = Problem(batch, 0.3)
        assert accumulator.grain == grain
        assert equal(found, untouched.gradients(Accumulator(batch, batch, grain)))


@given(sizes())
@settings(max_examples=40, deadline=None)
def test_gradients_are_those_of_the_whole_batch(cut: tuple[int, int, int]) -> None:
    batch, grain, microbatch = cut
    exact = Problem(batch).net.to(torch.float64)
    x = Problem(batch).x.double()
    reference = exact(x).square().sum() / batch
    reference.backward()
    total, gradients = Problem(batch).gradients(Accumulator(batch, microbatch, grain))
    assert total == pytest.approx(reference.item(), rel=1e-5)
    for gradient, parameter in zip(gradients, exact.parameters(), strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        torch.testing.assert_close(gradient.double(), parameter.grad, rtol=1e-5, atol=1e-6)


@given(sizes(), st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["forward", "backward"]))))
@settings(max_examples=60, deadline=None)
def test_no_schedule_of_refusals_changes_the_step(
    cut: tuple[int, int, int], refusals: list[tuple[int, str]]
) -> None:
    batch, grain, microbatch = cut
    problem, plain = Problem(batch), Problem(batch).gradients(Accumulator(batch, batch, grain))
    for call, where in refusals:
        refuse(problem, call, where)
    accumulator = Accumulator(batch, microbatch, grain)
    try:
        found = problem.gradients(accumulator)
    except DeviceOutOfMemoryError:
        assert accumulator.microbatch == 1
        return
    if accumulator.grain == grain:
        assert equal(found, plain)
    torch.testing.assert_close(found[0], plain[0], rtol=1e-6, atol=0)
    a, b = (torch.cat([torch.Tensor(g).flatten() for g in gs]) for _, gs in (found, plain))
    assert float((a - b).norm()) <= 1e-6 * float(b.norm())


@given(sizes(), st.integers(0, 24), st.booleans())
@settings(max_examples=40, deadline=None)
def test_nothing_of_a_failed_try_is_alive_at_the_next(
    cut: tuple[int, int, int], spare: int, cyclic: bool
) -> None:
    batch, grain, microbatch = cut
    problem = Problem(batch, capacity=1 + spare)
    alive: list[weakref.ref[Tensor]] = []
    at_the_start: list[int] = []

    def loss(part: slice) -> Tensor:
        if part.start == 0:
            at_the_start.append(sum(reference() is not None for reference in alive))
            at_the_start.append(problem.device.used)
        hidden = problem.net[0](problem.x[part])
        alive.append(weakref.ref(hidden))
        ring: list[object] = [hidden]
        if cyclic:
            ring.append(ring)
        return problem.device.hold(problem.net[1:](hidden).square()).sum() / batch

    accumulator = Accumulator(batch, microbatch, grain)
    accumulator.backward(loss, problem.net.zero_grad)
    assert at_the_start == [0, 0] * (accumulator.healed + 1)
    assert all(parameter.grad is not None for parameter in problem.net.parameters())


def test_gradients_are_forgotten_before_memory_is_sought_again() -> None:
    problem, seen = Problem(8), list[list[bool]]()
    refuse(problem, 3, "backward")

    def loss(part: slice) -> Tensor:
        if part.start == 0:
            seen.append([parameter.grad is None for parameter in problem.net.parameters()])
        return problem.loss(part)

    Accumulator(8, 8, 2).backward(loss, problem.net.zero_grad)
    assert seen == [[True] * 4] * 2


def _too_large(largest: int, problem: Problem, seen: list[int]) -> Callable[[slice], Tensor]:
    """Shares of a loss on a device that holds a given number of samples."""
    alive: list[int] = []

    def loss(part: slice) -> Tensor:
        size = part.stop - part.start
        if part.start == 0:
            alive.clear()
            seen.append(size)
        alive.append(size)
        if size > largest:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return problem.loss(part)

    return loss


def test_below_the_grain_gradients_are_equal_up_to_rounding() -> None:
    problem, seen = Problem(16, dtype=torch.float64), list[int]()
    accumulator = Accumulator(16, microbatch=16, grain=16)
    total = accumulator.backward(_too_large(3, problem, seen), problem.net.zero_grad)
    found = [parameter.grad for parameter in problem.net.parameters()]
    plain_total, plain = problem.gradients(Accumulator(16, 16, 16))
    assert seen == [16, 8, 4, 2]
    assert accumulator.state_dict() == {"microbatch": 2, "grain": 2, "healed": 3}
    assert total == pytest.approx(plain_total, rel=1e-12)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@given(sizes())
@settings(max_examples=15, deadline=None)
def test_every_heal_shrinks_to_half_at_most_and_keeps_whole_grains(
    cut: tuple[int, int, int],
) -> None:
    batch, grain, microbatch = cut
    accumulator, tried = Accumulator(batch, microbatch, grain), list[tuple[int, int]]()

    def loss(part: slice) -> Tensor:
        tried.append((accumulator.microbatch, accumulator.grain))
        raise MemoryError

    with pytest.raises(DeviceOutOfMemoryError, match="a single sample does not fit"):
        accumulator.backward(loss, lambda: None)
    assert tried[0] == (microbatch, grain)
    assert tried[-1] == (1, 1)
    for (size, unit), (smaller, smaller_unit) in pairwise(tried):
        assert smaller < size
        assert smaller % smaller_unit == 0
        assert smaller_unit == unit or smaller == smaller_unit == unit // 2
        # Never more than half of it, counted in grains where there are several.
        assert smaller <= max(unit * (-(-size // unit) // 2), unit // 2)
    assert accumulator.healed == len(tried) - 1


def test_a_heal_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    problem = Problem(8)
    refuse(problem, 1, "forward")
    with caplog.at_level(logging.WARNING, "cluster.memory.accumulator"):
        problem.gradients(Accumulator(8, 8, 2))
    assert "microbatch now 4 of a batch of 8 (grain 2)" in caplog.text


def test_learned_sizes_are_taken_over() -> None:
    learned, fresh = Accumulator(16, 16, 4), Accumulator(16, 16, 4)
    problem = Problem(16)
    refuse(problem, 1, "backward")
    problem.gradients(learned)
    fresh.load_state_dict(learned.state_dict())
    assert fresh == learned


@pytest.mark.parametrize("wrong", [(8, 8, 0), (8, 2, 4), (8, 16, 4), (16, 10, 4), (0, 0, 0)])
def test_sizes_out_of_order_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 <= grain <= microbatch <= batch"):
        Accumulator(*wrong)


def test_other_errors_pass() -> None:
    def loss(part: slice) -> Tensor:
        raise RuntimeError("shapes differ")

    accumulator = Accumulator(8, 8, 2)
    with pytest.raises(RuntimeError, match="shapes differ"):
        accumulator.backward(loss, lambda: None)
    assert accumulator.healed == 0


def test_a_real_shortage_is_healed_bit_for_bit() -> None:
    report = run_short_of_memory(_REAL_SHORTAGE)
    assert report == {"sizes": {"microbatch": 4, "grain": 1, "healed": 1}, "equal": True}
