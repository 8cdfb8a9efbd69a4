"""What is advised follows from the numbers, and never makes matters worse."""

from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.accounts.advice import Advice, advice
from cluster.accounts.timeline import Parts
from cluster.accounts.usage import AttemptUsage, MemberUsage, StageUsage
from cluster.cause import Cause
from cluster.checkpoints.interval import LONGEST
from cluster.stage import Stage

HOUR = 3600.0
GOOD = Parts(useful=HOUR)


def stage(*members: list[AttemptUsage], **rules: Any) -> StageUsage:
    found = [MemberUsage("train", index, attempts) for index, attempts in enumerate(members)]
    return StageUsage(Stage(Path("run"), "train", members=len(members), **rules), found)


def attempt(cause: Cause = Cause.FINISHED, parts: Parts = GOOD, **known: Any) -> AttemptUsage:
    return AttemptUsage(1, cause, parts, **known)


def the(setting: str, usage: StageUsage) -> Advice | None:
    found = [line for line in advice(usage) if line.setting == setting]
    assert len(found) <= 1
    return found[0] if found else None


SECONDS = st.floats(0.0, 1e5)
ATTEMPTS = st.builds(
    AttemptUsage,
    number=st.just(1),
    cause=st.none() | st.sampled_from(Cause),
    parts=st.builds(Parts, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
    waited=st.none() | SECONDS,
    cpus=st.integers(1, 64),
    limit=st.none() | st.floats(60.0, 1e6),
    memory=st.none() | st.integers(128, 10**6),
    peak=st.none() | st.floats(1.0, 1e6),
    sampled=st.booleans(),
    cpu_seconds=st.none() | SECONDS,
    microbatch=st.none() | st.tuples(st.integers(1, 64), st.integers(1, 64)),
    overdue=st.none()
    | st.fixed_dictionaries(
        {
            "signal": st.sampled_from([int(SIGUSR2), int(SIGTERM)]),
            "seconds": SECONDS,
            "grace": st.floats(1.0, 600.0),
        }
    ),
)
STAGES = st.lists(st.lists(ATTEMPTS, max_size=3), max_size=4).map(lambda members: stage(*members))


@given(STAGES)
def test_advice_of_any_numbers_is_sound(usage: StageUsage) -> None:
    totals = usage.totals
    for line in advice(usage):
        assert line.value is None or line.value >= 1
        match line.setting:
            case "memory":
                assert (line.value or 0) >= (totals.peak or 0.0)
            case "checkpoint_seconds":
                assert (line.value or 0) < (usage.stage.checkpoint_seconds or LONGEST)
            case "cpus":
                assert 1 <= (line.value or 0) < min(a.cpus for a in totals.attempts)
            case "signal_delay":
                late = [a.overdue for a in totals.attempts if a.overdue]
                graces = [note["grace"] for note in late if note["signal"] == SIGUSR2]
                assert (line.value or 0) >= 2 * max(graces)
            case "time":
                held = [a.parts.allocated for a in totals.attempts if a.cause is Cause.FINISHED]
                longer = any(a.cause is Cause.TIMEOUT for a in totals.attempts)
                assert longer or (line.value or 0) >= max(held)


@given(STAGES)
def test_a_setting_is_not_told_two_values(usage: StageUsage) -> None:
    settings = [line.setting for line in advice(usage) if line.value is not None]
    assert len(settings) == len(set(settings))


def test_nothing_is_said_of_what_is_well_or_not_known() -> None:
    well = attempt(memory=4096, peak=3000.0, sampled=True, cpus=4, cpu_seconds=3.9 * HOUR)
    assert advice(stage([well], [well])) == []
    assert advice(stage([attempt()], [attempt()], [])) == []
    assert advice(stage()) == []


def test_less_memory_needs_two_that_slurm_saw_whole() -> None:
    seen = attempt(memory=4096, peak=1000.0, sampled=True)
    own = attempt(memory=4096, peak=1000.0)
    line = the("memory", stage([seen], [seen]))
    assert line is not None
    assert line.value == 1280
    assert "2816 MiB" in line.gain
    assert the("memory", stage([seen])) is None
    assert the("memory", stage([own], [own])) is None
    # The largest counts, wherever it was seen; and a kill says that the peak was not seen.
    assert the("memory", stage([seen], [seen], [attempt(peak=3500.0)])) is None
    killed = attempt(Cause.HOST_OOM, memory=4096)
    assert (the("memory", stage([seen], [killed, seen])) or line).value == 6144


def test_more_memory_is_what_was_enough() -> None:
    killed = attempt(Cause.HOST_OOM, memory=1000, microbatch=(8, 8))
    raised = [killed, attempt(memory=1500, peak=1200.0, microbatch=(8, 8))]
    line = the("memory", stage(raised, [attempt(memory=1000)]))
    assert line is not None
    assert line.value == 1500
    assert the("microbatch", stage(raised)) is None


def test_a_learned_microbatch_is_worth_asking_for() -> None:
    killed = attempt(Cause.HOST_OOM, memory=1000, microbatch=(8, 8))
    halved = [killed, attempt(memory=1000, microbatch=(4, 4))]
    lines = advice(stage(halved, [attempt(memory=1000, microbatch=(8, 8))]))
    assert [(line.setting, line.value) for line in lines] == [("microbatch", 4)]


def test_a_longer_limit_fits_the_whole_work() -> None:
    parts = Parts(useful=HOUR, startup=HOUR / 5)
    chain = [attempt(Cause.TIMEOUT, parts, limit=1.25 * HOUR)] * 3 + [attempt(parts=parts)]
    line = the("time", stage(chain))
    assert line is not None
    assert (line.value or 0) > 4 * HOUR
    assert line.gain.startswith("36.0 min")
    quick = Parts(useful=HOUR, startup=10.0)
    assert the("time", stage([attempt(Cause.TIMEOUT, quick), attempt(parts=quick)])) is None


def test_a_shorter_limit_where_the_queue_is_longer_than_the_work() -> None:
    short = attempt(limit=24 * HOUR, waited=5 * HOUR)
    line = the("time", stage([short], [short]))
    assert line is not None
    assert HOUR < (line.value or 0) < 2 * HOUR
    idle = attempt(limit=24 * HOUR, waited=60.0)
    assert the("time", stage([idle], [idle])) is None


@pytest.mark.parametrize(
    ("signum", "setting", "value"), [(SIGUSR2, "signal_delay", 180), (SIGTERM, "step", None)]
)
def test_a_stop_that_was_not_answered(signum: int, setting: str, value: int | None) -> None:
    late = {"signal": int(signum), "seconds": 100.0, "grace": 90.0}
    line = the(setting, stage([attempt(Cause.KILLED, overdue=late), attempt()]))
    assert line is not None
    assert line.value == value


def test_more_saves_where_faults_cost_more_than_saves() -> None:
    faulty = attempt(Cause.KILLED, Parts(useful=HOUR, lost=400.0, saving=4.0))
    line = the("checkpoint_seconds", stage([faulty] * 4, checkpoint_seconds=800.0))
    assert line is not None
    assert line.value == 80  # 800 sqrt(16 / 1600)
    assert line.gain == "about 21.6 min"  # 1600 + 16 - 2 sqrt(1600 * 16) s
    rare = attempt(Cause.KILLED, Parts(useful=100 * HOUR, lost=400.0, saving=4.0))
    assert the("checkpoint_seconds", stage([rare], checkpoint_seconds=800.0)) is None


def test_cores_that_idle_are_told() -> None:
    line = the("cpus", stage([attempt(cpus=8, cpu_seconds=1.1 * HOUR)]))
    assert line is not None
    assert line.value == 2
    assert line.gain.startswith("6.0 core-hours")
    assert the("cpus", stage([attempt(cpus=8)])) is None
