"""Laws of host memory: never the same memory with the same batch, and an end to it."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import RUNNING, Commands

from cluster import Attempt, Budgets, Cause, HostMemory, Member
from cluster.aftermath import main, settle, settle_lost_attempt
from cluster.cause import JobFacts
from cluster.memory.hostmemory import (
    Order,
    Sizes,
    attempt_sizes,
    given_memory,
    limited,
    microbatch_limit,
    next_sizes,
)
from cluster.records.ledger import here
from cluster.stage import Stage, wants_another_attempt
from cluster.stopping.signals import StopFlag

OUT_OF_MEMORY = JobFacts("RUNNING", out_of_memory=True)

untimed = settings(deadline=None)  # the machine may be busy

rules = st.builds(
    HostMemory,
    order=st.sampled_from(Order),
    growth=st.floats(1.2, 3.0),
    memory_cap=st.floats(1.0, 8.0),
)
memories = st.none() | st.integers(1, 10_000)
microbatches = st.none() | st.integers(1, 1024)


def _fail_until_the_end(
    first: Sizes, policy: HostMemory, obedient: bool, largest_node: int | None
) -> list[Sizes]:
    """The sizes of attempts that are all killed; a disobedient member keeps its microbatch."""
    failed, offered = [first], list[Sizes]()
    while True:
        after = next_sizes(failed, offered, policy, first.memory, largest_node)
        if after is None:
            return failed
        offered.append(after)
        failed.append(after if obedient else Sizes(after.memory, first.microbatch))
        assert len(failed) < 10_000


@untimed
@given(memories, microbatches, rules, st.none() | st.integers(1, 40_000))
def test_no_attempt_has_what_an_earlier_one_failed_with(
    memory: int | None, microbatch: int | None, policy: HostMemory, node: int | None
) -> None:
    failed = _fail_until_the_end(Sizes(memory, microbatch), policy, True, node)
    assert len(set(failed)) == len(failed)
    for before, after in itertools.pairwise(failed):
        assert (after.memory or 0) >= (before.memory or 0)
        assert (after.microbatch or 0) <= (before.microbatch or 0)
    limit = max(memory or 0, min((memory or 0) * policy.memory_cap, node or 1e9))
    assert (failed[-1].memory or 0) <= limit


@untimed
@given(memories, microbatches, rules)
def test_a_member_that_ignores_its_limit_comes_to_an_end_too(
    memory: int | None, microbatch: int | None, policy: HostMemory
) -> None:
    failed = _fail_until_the_end(Sizes(memory, microbatch), policy, False, None)
    # The limit that was ignored is never offered again for the same memory.
    assert len(failed) <= 2 * len(set(failed))


@untimed
@given(memories, microbatches, rules)
def test_an_order_that_names_one_thing_leaves_the_other_alone(
    memory: int | None, microbatch: int | None, policy: HostMemory
) -> None:
    first = Sizes(memory, microbatch)
    failed = _fail_until_the_end(first, policy, True, None)
    if policy.order is Order.MEMORY_ONLY:
        assert {sizes.microbatch for sizes in failed} == {microbatch}
    if policy.order is Order.MICROBATCH_ONLY:
        assert {sizes.memory for sizes in failed} == {memory}
        assert failed[-1].microbatch in (None, 1)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.MICROBATCH_FIRST, [(100, 4), (100, 2), (100, 1), (150, 1), (200, 1)]),
        (Order.MEMORY_FIRST, [(100, 4), (150, 4), (200, 4), (200, 2), (200, 1)]),
        (Order.MEMORY_ONLY, [(100, 4), (150, 4), (200, 4)]),
        (Order.MICROBATCH_ONLY, [(100, 4), (100, 2), (100, 1)]),
    ],
)
def test_what_gives_way_first_is_the_users_choice(
    order: Order, expected: list[tuple[int, int]]
) -> None:
    policy = HostMemory(order, memory_cap=2.0)
    failed = _fail_until_the_end(Sizes(100, 4), policy, True, None)
    assert failed == [Sizes(*pair) for pair in expected]


def test_rules_that_would_not_end_are_refused() -> None:
    for wrong in ({"growth": 1.0}, {"memory_cap": 0.5}, {"order": "more of both"}):
        with pytest.raises(ValueError, match=r"growth > 1|more of both"):
            HostMemory(**wrong)


@untimed
@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 600))
def test_a_limited_microbatch_is_whole_grains_within_the_limit(
    grain: int, multiples: int, limit: int
) -> None:
    microbatch, cut = limited(grain * multiples, grain, limit)
    assert 1 <= cut <= microbatch <= max(limit, 1)
    assert microbatch % cut == 0
    assert cut == grain or limit < grain
    assert limited(microbatch, cut, limit) == (microbatch, cut)


@pytest.mark.parametrize(
    ("where", "memory"),
    [
        ({}, None),
        ({"mem_per_node": "700"}, 700),
        ({"mem_per_node": "0"}, None),
        ({"mem_per_cpu": "100", "cpus_on_node": "4"}, 400),
    ],
)
def test_the_memory_given_is_read_from_slurms_variables(
    where: Mapping[str, str], memory: int | None
) -> None:
    assert given_memory(where) == memory


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Member:
    ids = {"JOB_ID": "18", "ARRAY_JOB_ID": "17", "ARRAY_TASK_ID": "1", "MEM_PER_NODE": "700"}
    for name, value in ids.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    member = Member(tmp_path / "run", "train", 1)
    member.directory.mkdir(parents=True)
    member.ledger.queued()
    return member


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A Slurm on which the step of the member's job was killed for its memory."""
    commands = Commands(tmp_path / "bin", monkeypatch)
    _say(commands, "0:125")
    commands.add("sinfo", "printf '2000+\\n16000\\n'")
    commands.add("sacct", "exit 1")
    commands.add("scancel", "exit 0")
    return commands


def _say(commands: Commands, code: str, update: str = "exit 0") -> None:
    show = f'[ "$1" = show ] && echo "{RUNNING} DerivedExitCode={code}" && exit 0'
    commands.add("scontrol", f'{show}\n[ "$1" = update ] && {{ {update}; }}\nexit 0')


def _stage(member: Member, order: Order = Order.MICROBATCH_FIRST, budget: int = 6) -> Stage:
    stage = Stage(
        member.run,
        "train",
        members=2,
        budgets=Budgets(host_oom=budget),
        host_memory=HostMemory(order),
    )
    stage.save()
    return stage


def _attempt(member: Member, microbatch: int | None = None) -> int:
    number = member.ledger.start(here())
    if microbatch is not None:
        member.ledger.microbatch(number, microbatch)
    return number


def _trap(member: Member, status: int = 1) -> None:
    main([str(member.run), "train", "0", str(status)])


def _error(member: Member) -> str:
    return str((member.ledger.attempts()[-1].detail or {}).get("error"))


def test_the_rules_are_read_back(member: Member) -> None:
    stage = _stage(member, Order.MEMORY_ONLY)
    assert Stage.load(member.run, "train") == stage


def test_rules_of_before_there_was_a_choice_are_read(member: Member) -> None:
    stage = _stage(member)
    path = stage.directory / "stage.json"
    record = json.loads(path.read_text())
    del record["host_memory"]
    path.write_text(json.dumps(record))
    assert Stage.load(member.run, "train") == stage


def test_half_the_microbatch_is_requeued_with_the_same_memory(
    member: Member, commands: Commands
) -> None:
    stage = _stage(member)
    _attempt(member, 8)
    _trap(member)
    assert commands.calls("scontrol requeue") == ["scontrol requeue 17_1"]
    assert commands.calls("scontrol update") == []
    assert wants_another_attempt(member, stage.budgets)
    assert microbatch_limit(member.ledger, _attempt(member)) == 4


def test_more_memory_is_asked_for_after_the_requeue(
    member: Member, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stage(member)
    _attempt(member)  # killed before it could say what it takes at once
    _trap(member)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1050")
    _attempt(member)
    _trap(member)
    changes = [call for call in commands.calls("scontrol") if "show" not in call]
    assert changes == [
        "scontrol requeue 17_1",
        "scontrol update JobId=17_1 MinMemoryNode=1050",
        "scontrol requeue 17_1",
        "scontrol update JobId=17_1 MinMemoryNode=1575",
    ]


def test_memory_that_no_node_has_is_not_asked_for(member: Member, commands: Commands) -> None:
    commands.add("sinfo", "echo 700")
    _stage(member, Order.MEMORY_ONLY)
    _attempt(member, 8)
    _trap(member)
    assert commands.calls("scontrol requeue") == []
    assert "nothing is left to try" in _error(member)


def test_memory_that_is_refused_ends_the_member(member: Member, commands: Commands) -> None:
    _say(commands, "0:125", "echo 'Access/permission denied' >&2; exit 1")
    stage = _stage(member, Order.MEMORY_ONLY)
    _attempt(member, 8)
    _trap(member)
    assert commands.calls("scancel") == ["scancel 17_1"]
    assert not wants_another_attempt(member, stage.budgets)
    assert "Slurm refused 1050 MiB" in _error(member)


def test_a_spent_budget_ends_in_a_verdict(member: Member, commands: Commands) -> None:
    stage = _stage(member, budget=1)
    commands.add("sacct", "echo '17_1.0|650000K'")
    _attempt(member, 8)
    _trap(member)
    _attempt(member, 4)
    _trap(member)
    assert len(commands.calls("scontrol requeue")) == 1
    assert not wants_another_attempt(member, stage.budgets)
    assert "700 MiB and a microbatch of 4, of which 634 MiB were seen" in _error(member)
    assert "budget is used up" in _error(member)


def test_a_member_never_runs_for_ever_out_of_memory(member: Member, commands: Commands) -> None:
    stage = _stage(member, budget=1000)
    microbatch = 8
    for _ in range(100):
        number = _attempt(member)
        microbatch = microbatch_limit(member.ledger, number) or microbatch
        member.ledger.microbatch(number, microbatch)
        _trap(member)
        if not wants_another_attempt(member, stage.budgets):
            break
    # Slurm's answer to the update is a fake's: the memory stays, so its last step is the raise.
    tried = [attempt_sizes(member.ledger, a.number) for a in member.ledger.attempts()]
    assert [sizes.microbatch for sizes in tried[:4]] == [8, 4, 2, 1]
    assert len(tried) < 10


def test_what_was_too_much_is_remembered_after_a_submission_by_hand(
    member: Member, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stage(member)
    _attempt(member, 8)
    _trap(member)
    member.ledger.queued()
    assert microbatch_limit(member.ledger, _attempt(member)) == 4
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1400")
    member.ledger.queued()
    assert microbatch_limit(member.ledger, _attempt(member)) is None


class Work:
    """Work with a microbatch, as user code may have it."""

    def __init__(self) -> None:
        self.microbatch, self.steps_done, self.steps_total = 8, 0, 3

    def limit_microbatch(self, limit: int) -> None:
        self.microbatch, _ = limited(self.microbatch, 2, limit)

    def state_dict(self) -> Mapping[str, Any]:
        return {"steps_done": self.steps_done, "microbatch": self.microbatch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps_done, self.microbatch = state["steps_done"], state["microbatch"]


def test_work_is_limited_even_where_its_checkpoint_says_more(member: Member) -> None:
    first = Attempt(member, member.ledger.start(here()), StopFlag(0), checkpoint_seconds=0.0)
    work = Work()
    for _ in first.steps(work):
        work.steps_done += 1
        if work.steps_done == 2:
            break
    first.save(work)
    settle(member, 1, OUT_OF_MEMORY)

    second = Attempt(member, member.ledger.start(here()), StopFlag(0))
    again = Work()
    second.restore(again)
    assert again.microbatch == 8
    for _ in second.steps(again):
        again.steps_done += 1
    assert (again.microbatch, second.microbatch_limit) == (4, 4)
    noted = [e["microbatch"] for e in member.ledger.events() if e["event"] == "microbatch"]
    assert noted == [8, 4]


def test_a_batch_script_killed_for_memory_is_noted_by_the_next_attempt(
    member: Member, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stage(member)
    _attempt(member, 8)
    rows = "17_1|OUT_OF_MEMORY\\n17_1.batch|OUT_OF_MEMORY\\n17_1.0|CANCELLED\\n"
    commands.add("sacct", f'case "$*" in *JobID,State*17_1*) printf "{rows}";; esac')
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")  # the job of 'yaoki retry'
    settle_lost_attempt(member)
    (attempt,) = member.ledger.attempts()
    assert attempt.cause is Cause.HOST_OOM
    assert microbatch_limit(member.ledger, _attempt(member)) == 4
