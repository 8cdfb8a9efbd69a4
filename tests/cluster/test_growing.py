"""Laws of growing back: never past what was asked for, seldom in vain, and without a trace."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shortage import Problem, sizes
from support.small_work import equal
from torch import Tensor

from cluster import Accumulator
from cluster.memory.growing import Growth

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("quick_collection")

capacities = st.lists(st.integers(1, 24), min_size=1, max_size=8)


class Run:
    """Batches on a device whose room comes and goes."""

    def __init__(self, cut: tuple[int, int, int], grow_after: int | None) -> None:
        batch, grain, microbatch = cut
        self.problem = Problem(batch, 0.3)
        self.accumulator = Accumulator(batch, microbatch, grain, grow_after=grow_after)
        self.used: list[int] = []

    def go(self, rooms: Sequence[int]) -> list[tuple[float, list[Tensor | None]]]:
        return [self._batch(room) for room in rooms]

    def _batch(self, room: int) -> tuple[float, list[Tensor | None]]:
        device = self.problem.device
        device.capacity, device.peak = room, 0
        found = self.problem.gradients(self.accumulator)
        self.used.append(device.peak)
        return found


@given(sizes(), capacities, st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_growing_changes_no_bit_and_stays_below_what_was_asked_for(
    cut: tuple[int, int, int], rooms: list[int], after: int
) -> None:
    batch, grain, microbatch = cut
    run = Run(cut, after)
    found = run.go([max(room, grain) for room in rooms])
    plain = Problem(batch, 0.3).gradients(Accumulator(batch, microbatch, grain))
    assert all(equal(each, plain) for each in found)
    assert run.accumulator.grain == grain
    assert max(run.used) <= microbatch
    assert run.accumulator.microbatch <= microbatch


@given(sizes(), capacities, st.integers(1, 2), st.integers(1, 24))
@settings(max_examples=15, deadline=None)
def test_growing_stays_below_a_limit(
    cut: tuple[int, int, int], rooms: list[int], after: int, most: int
) -> None:
    run = Run(cut, after)
    run.go(rooms[:2])
    run.accumulator.limit(most)
    run.used.clear()
    run.go([24] * 12)
    assert max(run.used) <= most
    # And all of it is taken that whole grains can take.
    ceiling = run.accumulator.ceiling
    assert run.accumulator.microbatch == ceiling
    assert ceiling > min(most, cut[2]) - run.accumulator.grain


@given(sizes(), capacities, st.integers(1, 3), st.data())
@settings(max_examples=15, deadline=None)
def test_patience_survives_a_resume(
    cut: tuple[int, int, int], rooms: list[int], after: int, data: st.DataObject
) -> None:
    whole, first, second = Run(cut, after), Run(cut, after), Run(cut, after)
    stop = data.draw(st.integers(0, len(rooms)))
    found = whole.go(rooms)
    before = first.go(rooms[:stop])
    second.accumulator.load_state_dict(first.accumulator.state_dict())
    assert equal(before + second.go(rooms[stop:]), found)
    assert first.used + second.used == whole.used
    assert second.accumulator == whole.accumulator


def test_a_shortage_that_ends_costs_a_try_and_some_patience() -> None:
    run = Run((16, 2, 16), grow_after=3)
    run.go([5] + [16] * 9)
    assert run.used == [4, 4, 4, 8, 8, 8, 16, 16, 16, 16]
    assert run.accumulator.state_dict() == {
        **{"microbatch": 16, "grain": 2, "healed": 2},
        **{"wait": 3, "calm": 0, "fallback": 8},
    }


def test_where_nothing_larger_fits_tries_become_rare() -> None:
    run = Run((4, 2, 4), grow_after=1)
    run.go([2] * 400)
    # One at first; then after 1, 2, 4, ... 64 batches more, and every 64 from there on.
    assert run.accumulator.healed == 1 + 7 + (400 - 1 - 127) // 64
    assert run.accumulator.growth.wait == 64


def test_a_grown_size_that_fails_late_goes_back_to_where_it_came_from() -> None:
    run = Run((24, 2, 20), grow_after=2)
    run.go([5, 24, 24, 24, 24, 24, 24, 24])
    assert run.accumulator.microbatch == 20
    assert run.accumulator.growth.fallback == 16
    run.go([19])
    assert run.accumulator.microbatch == 16
    assert run.accumulator.growth.wait == 4


def test_a_grain_that_was_halved_stays() -> None:
    run = Run((16, 6, 12), grow_after=2)
    run.go([4])
    assert (run.accumulator.microbatch, run.accumulator.grain) == (3, 3)
    found = run.go([16] * 4)
    assert (run.accumulator.microbatch, run.accumulator.grain) == (12, 3)
    assert equal(found[-1], Problem(16, 0.3).gradients(Accumulator(16, 3, 3)))


def test_where_growing_was_not_asked_for_sizes_stay() -> None:
    run = Run((16, 2, 16), grow_after=None)
    run.go([5] + [16] * 20)
    assert run.accumulator.state_dict() == {"microbatch": 4, "grain": 2, "healed": 2}


def test_patience_is_a_positive_number() -> None:
    with pytest.raises(ValueError, match="grow_after: expected a number >= 1 or None, found 0"):
        Growth(0)
