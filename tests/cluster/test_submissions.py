"""Laws of what is noted of many members at once: each reads it as if noted for him alone."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.noting import SlowClock, append, slow_clock, told

from cluster.records.member import Member
from cluster.records.submissions import Submissions, spans_of
from cluster.stage import Stage

MEMBERS = 4


@pytest.fixture(scope="module")
def other() -> Iterator[SlowClock]:
    with slow_clock() as other:
        yield other


notes = st.sampled_from(
    [
        *("all queued", "all sent", "all withdrawn", "all torn", "all but the newline"),
        *("queued", "cancel", "withdrawn", "reopen", "torn"),
    ]
)
some_members = st.sets(st.integers(0, MEMBERS - 1), min_size=1).map(sorted)
steps = st.lists(st.tuples(st.booleans(), notes, some_members), max_size=12)
folders = itertools.count()


@given(steps)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_members_read_everything_in_the_order_in_which_it_was_noted(
    tmp_path: Path, other: SlowClock, steps: list[tuple[bool, str, list[int]]]
) -> None:
    stage = Stage(tmp_path / str(next(folders)), "job", members=MEMBERS)
    stage.directory.mkdir(parents=True)
    ledgers = {member: member.ledger for member in stage}
    expected: dict[Member, list[str]] = {member: [] for member in stage}
    for elsewhere, note, members in steps:
        (other.append if elsewhere else append)(stage.directory, note, members)
        for index in members:
            expected[stage.member(index)] += told(note)
        assert {m: _kinds(ledger.events()) for m, ledger in ledgers.items()} == expected
    readings = {member: reading.events() for member, reading in stage.readings()}
    assert readings == {member: ledger.events() for member, ledger in ledgers.items()}


def _kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


@given(st.sets(st.integers(0, 60)))
def test_spans_hold_the_same_members(indices: set[int]) -> None:
    spans = spans_of(indices)
    assert {index for first, behind in spans for index in range(first, behind)} == indices
    bounds = list(itertools.chain.from_iterable(spans))
    assert bounds == sorted(set(bounds))


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_line_speaks_of_its_members_alone(tmp_path: Path, indices: set[int], offset: int) -> None:
    submissions = Submissions(tmp_path)
    submissions.path.unlink(missing_ok=True)
    submissions.sent([index + offset for index in indices], "17", offset, "a.sh")
    (line,) = submissions.read()
    told = {index: line.event(index) for index in range(50)}
    assert {index - offset for index, event in told.items() if event} == indices
    ids = {event["job_id"] for event in told.values() if event}
    assert ids == {f"17_{index}" for index in indices}


def test_a_note_of_nobody_is_no_line(tmp_path: Path) -> None:
    Submissions(tmp_path).queued([])
    assert Submissions(tmp_path).read() == []
    assert list(tmp_path.iterdir()) == []
