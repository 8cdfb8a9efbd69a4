"""Laws of the interval between saves: the formulas are the optima they are said to be."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import Cause, Member
from cluster.checkpoints.interval import (
    LONGEST,
    PRIOR_SECONDS,
    RESCUE_BUDGET,
    STALL_BUDGET,
    Faults,
    SaveCost,
    daly_interval,
    expected_waste,
    faults_near,
    observed_faults,
    stall_interval,
    young_interval,
)
from cluster.records.ledger import AttemptRecord

costs = st.floats(1e-3, 1e3)
times = st.floats(1e1, 1e6)
factors = st.floats(0.05, 20.0)


def test_the_expected_waste_is_what_a_simulation_wastes() -> None:
    generator = np.random.default_rng(0)
    interval, cost, mean_time, segments = 300.0, 40.0, 500.0, 100_000
    failures = generator.geometric(np.exp(-(interval + cost) / mean_time), segments) - 1
    draws = generator.exponential(mean_time, 20 * segments)
    lost = draws[draws < interval + cost]
    lost = lost[: failures.sum()]
    assert len(lost) == failures.sum()
    spent = segments * (interval + cost) + lost.sum()
    wasted = spent / (segments * interval) - 1
    assert wasted == pytest.approx(expected_waste(interval, cost, mean_time), rel=0.02)


@given(costs, times, factors)
def test_youngs_interval_is_the_optimum_to_first_order(
    cost: float, mean_time: float, factor: float
) -> None:
    def waste(interval: float) -> float:
        return cost / interval + interval / (2 * mean_time)

    best = young_interval(cost, mean_time)
    assert waste(best) <= waste(best * factor) * (1 + 1e-12)


@given(costs, times, factors)
def test_no_other_interval_is_noticeably_better_than_dalys(
    cost: float, mean_time: float, factor: float
) -> None:
    best = daly_interval(cost, mean_time)
    if cost < mean_time / 2:
        # Daly's own range; beyond it the waste exceeds the work and nothing is good.
        other = expected_waste(best * factor, cost, mean_time)
        assert expected_waste(best, cost, mean_time) <= other * 1.001 + 1e-9


@given(costs, times, st.floats(1.0, 100.0))
def test_dearer_saves_and_rarer_faults_mean_fewer_saves(
    cost: float, mean_time: float, factor: float
) -> None:
    interval = daly_interval(cost, mean_time) * (1 - 1e-9)
    assert daly_interval(cost * factor, mean_time) >= interval
    assert daly_interval(cost, mean_time * factor) >= interval


@given(costs, st.floats(1e-3, 0.5))
def test_at_the_stall_interval_stalls_take_their_budget(stall: float, budget: float) -> None:
    interval = stall_interval(stall, budget)
    assert stall / (interval + stall) == pytest.approx(budget)


@given(costs, costs, times, st.floats(0.0, 1e4))
def test_the_users_bound_comes_first_and_the_budget_second(
    stall: float, writing: float, mean_time: float, longest: float
) -> None:
    cost = SaveCost()
    assert cost.interval(mean_time, longest) <= longest
    cost.measured(stall, writing)
    assert cost.interval(mean_time, longest) <= longest
    free = cost.interval(mean_time, float("inf"))
    assert stall / (free + stall) <= STALL_BUDGET * (1 + 1e-9)
    assert free >= max(writing, daly_interval(stall + writing, mean_time))
    assert cost.interval(mean_time, longest) == min(longest, free)


@given(costs, costs, times)
def test_without_a_bound_of_the_users_ten_minutes_hold_where_they_are_cheap(
    stall: float, writing: float, mean_time: float
) -> None:
    cost = SaveCost()
    assert cost.interval(mean_time) <= LONGEST
    cost.measured(stall, writing)
    free, bounded = cost.interval(mean_time, float("inf")), cost.interval(mean_time)
    assert bounded == free or bounded >= LONGEST
    if bounded > LONGEST and bounded != free:
        assert cost.total / (bounded + cost.total) == pytest.approx(STALL_BUDGET)


@given(costs, costs, times, costs)
def test_saves_come_sooner_where_a_stop_leaves_no_time_for_one(
    stall: float, writing: float, mean_time: float, grace: float
) -> None:
    cost = SaveCost()
    cost.measured(stall, writing)
    free, hurried = cost.interval(mean_time), cost.interval(mean_time, grace=grace)
    if cost.at_a_stop <= grace:
        assert hurried == free
    else:
        assert hurried <= free
        assert stall / (hurried + stall) <= STALL_BUDGET * (1 + 1e-9)
        assert hurried <= max(stall_interval(cost.total, RESCUE_BUDGET), stall_interval(stall))


def test_the_cost_follows_what_is_measured() -> None:
    cost = SaveCost()
    for _ in range(30):
        cost.measured(0.25, 2.0)
    assert cost.total == pytest.approx(2.25)
    for _ in range(30):
        cost.measured(0.5, 1.0)
    assert cost.total == pytest.approx(1.5)


def _ended(seconds: float, cause: Cause, **detail: object) -> AttemptRecord:
    return AttemptRecord(1, 1000.0, {}, 1000.0 + seconds, cause, detail)


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (_ended(50, Cause.KILLED, status=-9), Faults(50, 1)),
        (_ended(50, Cause.ERROR, error="boom"), Faults(50, 1)),
        (_ended(50, Cause.FINISHED), Faults(50, 0)),
        (_ended(50, Cause.CANCELLED), Faults(50, 0)),
        # Answered with a save: no work is lost, however long the interval is.
        (_ended(50, Cause.TIMEOUT, signal=12), Faults(50, 0)),
        # Of the time limit as well, but of a stop that was not answered.
        (_ended(50, Cause.TIMEOUT, status=137), Faults(50, 1)),
        # Noted when the next attempt started, perhaps after a night in the queue.
        (_ended(50, Cause.NODE_FAILURE, slurm_state="NODE_FAIL"), Faults(0, 1)),
    ],
)
def test_faults_are_the_ends_that_cost_work(attempt: AttemptRecord, expected: Faults) -> None:
    assert observed_faults([attempt]) == expected
    assert observed_faults([attempt] * 3) == Faults(3 * expected.seconds, 3 * expected.count)


def test_an_attempt_that_runs_counts_as_time_without_a_fault() -> None:
    found = observed_faults([AttemptRecord(1, time.time() - 100, {})])
    assert found.count == 0
    assert found.seconds == pytest.approx(100, abs=10)


def test_nothing_seen_is_the_prior_and_much_seen_outweighs_it() -> None:
    assert Faults().mean_time() == PRIOR_SECONDS
    assert Faults(seconds=1e6, count=1000).mean_time() == pytest.approx(1000, rel=0.01)
    assert Faults(seconds=1e6).mean_time() > 1e6


def test_members_learn_from_those_beside_them(tmp_path: Path) -> None:
    members = [Member(tmp_path, "train", index) for index in range(30)]
    for member in members:
        member.directory.mkdir(parents=True)
        member.ledger.end(member.ledger.start({}), Cause.KILLED, status=-9)
    assert faults_near(members[0]).count == 9
    assert faults_near(members[15]).count == 17
    assert faults_near(members[29], reach=2).count == 3
    assert faults_near(Member(tmp_path, "sample", 0)) == Faults()
    members[14].ledger.path.write_text('{"event": "start", "attempt": 1}\n')
    assert faults_near(members[15]).count == 16
