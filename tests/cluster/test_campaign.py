"""The machinery of the campaigns: schedules are fair, and traces are read as they were left."""

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults.outcome import Cost, cost
from benchmarks.faults.scene import Life, Scene, Trace
from benchmarks.faults.schedule import UNAIDED, Fault, draw, of_member


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 100),
    members=st.integers(1, 12),
    steps=st.integers(10, 1000),
)
def test_a_schedule_is_fair_and_follows_from_its_seed(
    seed: int, count: int, members: int, steps: int
) -> None:
    faults = draw(seed, count, members, steps)
    assert faults == draw(seed, count, members, steps)
    assert len(faults) == count
    for tally in (
        Counter(dict.fromkeys(UNAIDED, 0) | Counter(fault.kind for fault in faults)),
        Counter(dict.fromkeys(range(members), 0) | Counter(fault.member for fault in faults)),
    ):
        assert max(tally.values()) - min(tally.values()) <= 1
    assert all(0 <= fault.step < steps for fault in faults)
    for member in range(members):
        tally = Counter(fault.kind for fault in of_member(faults, member))
        assert max(tally.values(), default=0) - min(tally[kind] for kind in UNAIDED) <= 1


@given(seed=st.integers(0, 10**6), members=st.integers(1, 12))
def test_every_fault_befalls_one_member_in_the_order_of_steps(seed: int, members: int) -> None:
    faults = draw(seed, 50, members, 100)
    met: list[Fault] = []
    for member in range(members):
        own = of_member(faults, member)
        assert [fault.step for fault in own] == sorted(fault.step for fault in own)
        met += own
    assert Counter(met) == Counter(faults)


def test_a_trace_tells_of_each_process_and_waits_for_whole_lines(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    trace = Trace(scene.trace_file)
    assert trace.read().top == 0
    scene.begin(0)
    for step in (1, 2, 3):
        scene.did(step)
    scene.begin(2)
    with scene.trace_file.open("a") as file:
        file.write('{"time": 1.0, ')
        file.flush()
        assert [life.resumed for life in trace.read().lives] == [0, 2]
        assert trace.top == 3
        file.write('"step": 4}\n')
    assert trace.read().top == 4
    assert trace.lives[-1].runs


def test_what_a_fault_costs_is_read_from_the_trace() -> None:
    hit = Life(1, born=0.0, resumed=0, steps=[(10.0, 1), (11.0, 2), (12.0, 3)])
    ignored = cost([hit], hit, dealt=11.5)
    assert ignored == Cost(lost=0, gap=1.0, queued=0.0)
    stillborn = Life(2, born=20.0, resumed=2)
    after = Life(3, born=30.0, resumed=1, steps=[(32.0, 2), (33.0, 3), (34.0, 4)])
    assert cost([hit, stillborn, after], hit, dealt=12.5) == Cost(lost=2, gap=22.0, queued=8.0)
