"""After an attempt: what is noted for a process that could note nothing, and who is requeued."""

from pathlib import Path

import pytest
from support.commands import RUNNING, Commands

from cluster import Budgets, Cause, Member
from cluster.aftermath import main, settle, settle_lost_attempt
from cluster.cause import JobFacts
from cluster.records.ledger import here
from cluster.stage import Stage


@pytest.fixture
def member(tmp_path: Path) -> Member:
    member = Member(tmp_path / "run", "train", 1)
    member.directory.mkdir(parents=True)
    member.ledger.queued()
    member.ledger.sent("17_1")
    return member


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The member's job on a Slurm that says it runs."""
    ids = {"JOB_ID": "18", "ARRAY_JOB_ID": "17", "ARRAY_TASK_ID": "1"}
    for name, value in ids.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    commands = Commands(tmp_path / "bin", monkeypatch)
    commands.add("scontrol", f'[ "$1" = show ] && echo "{RUNNING}"; exit 0')
    commands.add("sacct", "printf '17_1|NODE_FAIL\\n17_1|RUNNING\\n'")
    return commands


def _trap(member: Member, status: int, budgets: Budgets | None = None) -> int:
    """Run the exit trap of the batch script."""
    stage = Stage(member.run, "train", members=2, budgets=budgets or Budgets())
    stage.save()
    return main([str(member.run), "train", "0", str(status)])


def _cause(member: Member) -> Cause | None:
    return member.ledger.attempts()[-1].cause


@pytest.mark.parametrize(
    ("facts", "status", "cause"),
    [
        (None, 137, Cause.KILLED),
        (None, -9, Cause.KILLED),
        (None, -15, Cause.KILLED),
        (None, 1, Cause.ERROR),
        (None, 0, Cause.ERROR),
        (None, 255, Cause.ERROR),
        (JobFacts("RUNNING"), 137, Cause.KILLED),
        (JobFacts("RUNNING", preempted=True), 137, Cause.PREEMPTION),
        (JobFacts("PREEMPTED"), 137, Cause.PREEMPTION),
        (JobFacts("TIMEOUT"), 137, Cause.TIMEOUT),
        (JobFacts("NODE_FAIL"), 137, Cause.NODE_FAILURE),
        (JobFacts("OUT_OF_MEMORY"), 137, Cause.HOST_OOM),
        (JobFacts("RUNNING", out_of_memory=True), 137, Cause.HOST_OOM),
        (JobFacts("COMPLETING", reason="TimeLimit"), 137, Cause.TIMEOUT),
        (JobFacts("COMPLETING", requeued=True), 137, Cause.PREEMPTION),
        (JobFacts("COMPLETING"), 137, Cause.CANCELLED),
        (JobFacts("CANCELLED"), 137, Cause.CANCELLED),
    ],
)
def test_a_killed_attempt_is_noted(
    member: Member, facts: JobFacts | None, status: int, cause: Cause
) -> None:
    member.ledger.start(here())
    settle(member, status, facts)
    (attempt,) = member.ledger.attempts()
    detail = dict(attempt.detail or {})
    # Only of memory is there more to say: why it is not tried again.
    assert ("error" in detail) == (cause is Cause.HOST_OOM)
    detail.pop("error", None)
    assert (attempt.cause, detail) == (cause, {"status": status})


def test_a_cancelled_member_is_not_called_killed(member: Member) -> None:
    member.ledger.start(here())
    member.ledger.cancel()
    settle(member, -9)
    assert _cause(member) is Cause.CANCELLED


def test_an_end_that_was_noted_stays(member: Member) -> None:
    member.ledger.end(member.ledger.start(here()), Cause.TIMEOUT)
    settle(member, 137)
    assert _cause(member) is Cause.TIMEOUT


def test_a_lost_attempt_is_noted_as_accounting_says(member: Member, commands: Commands) -> None:
    member.ledger.start(here())
    settle_lost_attempt(member)
    assert _cause(member) is Cause.NODE_FAILURE
    commands.add("sacct", "exit 1")
    member.ledger.start(here())
    settle_lost_attempt(member)
    assert _cause(member) is Cause.KILLED


def test_without_accounting_a_restart_by_slurm_is_a_lost_node(
    member: Member, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.add("sacct", "exit 1")
    member.ledger.start(here())
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    settle_lost_attempt(member)
    assert _cause(member) is Cause.NODE_FAILURE


def test_nothing_lost_notes_nothing(member: Member) -> None:
    before = member.ledger.events()
    settle_lost_attempt(member)
    assert member.ledger.events() == before


@pytest.mark.parametrize("status", [0, 1, 75, 137])
def test_the_status_is_passed_on(member: Member, commands: Commands, status: int) -> None:
    member.ledger.end(member.ledger.start(here()), Cause.FINISHED)
    assert _trap(member, status) == status
    assert commands.calls("scontrol requeue") == []


@pytest.mark.parametrize(
    "cause", [Cause.TIMEOUT, Cause.PREEMPTION, Cause.KILLED, Cause.NODE_FAILURE]
)
def test_a_member_that_is_wanted_back_is_requeued_once(
    member: Member, commands: Commands, cause: Cause
) -> None:
    member.ledger.end(member.ledger.start(here()), cause)
    _trap(member, 75)
    assert commands.calls("scontrol requeue") == ["scontrol requeue 17_1"]


@pytest.mark.parametrize("cause", [Cause.FINISHED, Cause.CANCELLED, Cause.ERROR, Cause.HOST_OOM])
def test_a_member_that_is_done_is_not_requeued(
    member: Member, commands: Commands, cause: Cause
) -> None:
    member.ledger.end(member.ledger.start(here()), cause)
    _trap(member, 1)
    assert commands.calls("scontrol requeue") == []


@pytest.mark.parametrize(
    "state", ["CANCELLED", "COMPLETING", "PREEMPTED", "NODE_FAIL", "REQUEUED", "PENDING"]
)
def test_what_slurm_does_itself_is_not_asked_for(
    member: Member, commands: Commands, state: str
) -> None:
    commands.add("scontrol", f'echo "{RUNNING.replace("RUNNING", state)}"')
    member.ledger.end(member.ledger.start(here()), Cause.PREEMPTION)
    _trap(member, 75)
    assert commands.calls("scontrol requeue") == []


def test_a_kill_is_noted_and_requeued_until_its_budget_is_spent(
    member: Member, commands: Commands
) -> None:
    for _ in range(5):
        member.ledger.start(here())
        _trap(member, 137, Budgets(killed=2))
    assert len(commands.calls("scontrol requeue")) == 2


def test_a_worker_killed_before_it_could_start_is_requeued(
    member: Member, commands: Commands
) -> None:
    # Out of memory while torch is imported, or a stop signal before the handlers are in place.
    _trap(member, 137)
    assert _cause(member) is Cause.KILLED
    assert commands.calls("scontrol requeue") == ["scontrol requeue 17_1"]


@pytest.mark.parametrize("status", [1, 137])
def test_workers_that_never_start_are_not_requeued_for_ever(
    member: Member, commands: Commands, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    # The first attempt was preempted; since then the environment of the node is broken.
    member.ledger.end(member.ledger.start(here()), Cause.PREEMPTION)
    for restart in range(1, 8):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        _trap(member, status, Budgets(killed=2))
    assert len(commands.calls("scontrol requeue")) <= 3


def test_a_refused_requeue_keeps_the_status_and_the_note(
    member: Member, commands: Commands
) -> None:
    commands.add("scontrol", f'[ "$1" = show ] && echo "{RUNNING}" && exit 0; exit 1')
    member.ledger.start(here())
    assert _trap(member, 137) == 137
    assert _cause(member) is Cause.KILLED


def _events(member: Member) -> list[str]:
    return [event["event"] for event in member.ledger.events()]


def test_a_requeue_is_noted_when_it_has_succeeded(member: Member, commands: Commands) -> None:
    member.ledger.end(member.ledger.start(here()), Cause.TIMEOUT)
    _trap(member, 75)
    assert _events(member)[-1] == "requeued"
    commands.add("scontrol", f'[ "$1" = show ] && echo "{RUNNING}" && exit 0; exit 1')
    member.ledger.end(member.ledger.start(here()), Cause.TIMEOUT)
    _trap(member, 75)
    assert _events(member)[-1] == "owed"


def test_where_nothing_tells_who_ended_the_job_a_requeue_is_owed(
    member: Member, commands: Commands
) -> None:
    # Asked blindly, Slurm would bring a cancelled job back to life.
    for name in ("scontrol", "squeue"):
        commands.add(name, "exit 1")
    member.ledger.end(member.ledger.start(here()), Cause.PREEMPTION)
    assert _trap(member, 75) == 75
    assert _events(member)[-1] == "owed"
    assert commands.calls("scontrol requeue") == []


def test_the_trap_of_a_job_that_was_replaced_keeps_its_hands_off(
    member: Member, commands: Commands
) -> None:
    member.ledger.again()
    member.ledger.sent("21_1")
    member.ledger.start(here())
    before = member.ledger.events()
    assert _trap(member, 137) == 137
    assert member.ledger.events() == before
    assert commands.calls() == []


def test_without_slurm_nothing_is_requeued(
    member: Member, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name)
    member.ledger.start(here())
    _trap(member, 137)
    assert _cause(member) is Cause.KILLED
    assert commands.calls() == []
