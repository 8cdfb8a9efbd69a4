"""The time of an attempt is cut into parts that add up to it, whatever the clocks say."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.accounts.timeline import Parts, Timeline, total

#: Moments in any order: they come from clocks that disagree.
MOMENTS = st.floats(0.0, 1e6)
TIMELINES = st.builds(
    Timeline,
    allocated=MOMENTS,
    began=st.none() | MOMENTS,
    left=MOMENTS,
    released=MOMENTS,
    kept_until=MOMENTS | st.sampled_from([-inf, inf]),
    saving=st.floats(-1.0, 1e6),
    saved_all=st.booleans(),
)


@given(TIMELINES)
def test_parts_add_up_to_what_was_allocated(timeline: Timeline) -> None:
    parts = timeline.parts()
    ends = (timeline.allocated, timeline.left, timeline.released)
    assert parts.allocated == pytest.approx(max(ends) - timeline.allocated, abs=1e-6)
    assert min(parts.useful, parts.lost, parts.startup, parts.saving, parts.rest) >= 0


@given(TIMELINES)
def test_goodput_is_a_share(timeline: Timeline) -> None:
    goodput = timeline.parts().goodput
    assert goodput is None or 0 <= goodput <= 1


@given(TIMELINES, st.floats(0.0, 1e6))
def test_keeping_more_is_never_worth_less(timeline: Timeline, more: float) -> None:
    assume(timeline.kept_until > -inf)
    longer = replace(timeline, kept_until=timeline.kept_until + more)
    assert longer.parts().useful >= timeline.parts().useful
    assert longer.parts().lost <= timeline.parts().lost


@given(st.lists(TIMELINES))
def test_totals_are_sums(timelines: list[Timeline]) -> None:
    parts = [timeline.parts() for timeline in timelines]
    assert total(parts).allocated == pytest.approx(sum(p.allocated for p in parts))


def test_what_followed_the_last_save_is_lost_or_was_leaving() -> None:
    killed = Timeline(allocated=100, began=110, left=150, released=152, kept_until=140, saving=4)
    assert killed.parts() == Parts(useful=27, lost=9, startup=10, saving=4, rest=2)
    told = replace(killed, saved_all=True)
    assert told.parts() == Parts(useful=27, lost=0, startup=10, saving=4, rest=11)


def test_an_attempt_that_took_no_step_was_starting_up() -> None:
    parts = Timeline(allocated=100, began=None, left=107, released=108).parts()
    assert parts == Parts(startup=7, rest=1)


def test_no_time_has_no_goodput() -> None:
    assert Parts().goodput is None
