"""What tells a kill for memory from a SIGKILL: the cgroup, Slurm's own word, accounting, srun."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from support.commands import RUNNING, Commands

from cluster.cause import JobFacts
from cluster.memory.oomkill import cgroup_verdict, examined


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A Slurm on which the step of the job was killed for its memory, without accounting."""
    commands = Commands(tmp_path / "bin", monkeypatch)
    _say(commands, "0:125")
    commands.add("sacct", "exit 1")
    return commands


def _say(commands: Commands, code: str) -> None:
    commands.add("scontrol", f'echo "{RUNNING} DerivedExitCode={code}"')


@pytest.mark.parametrize(
    ("files", "verdict"),
    [
        ({}, None),
        ({"memory.events": "low 0\nmax 9\noom 1\noom_kill 1\n"}, True),
        ({"memory.events": "low 0\nmax 9\noom 0\noom_kill 0\n"}, False),
        ({"max_usage": "99", "limit": "100", "hierarchy": "1"}, False),
        ({"max_usage": "100", "limit": "100", "hierarchy": "1"}, None),
        ({"max_usage": "1", "limit": "100", "hierarchy": "0"}, None),
    ],
)
def test_the_cgroup_tells_of_kills(
    tmp_path: Path, files: Mapping[str, str], verdict: bool | None
) -> None:
    names = {
        "max_usage": "memory.max_usage_in_bytes",
        "limit": "memory.limit_in_bytes",
        "hierarchy": "memory.use_hierarchy",
    }
    for name, text in files.items():
        (tmp_path / names.get(name, name)).write_text(text + "\n")
    assert cgroup_verdict(tmp_path) is verdict
    assert cgroup_verdict(None) is None
    # A rank may have been killed on another node.
    assert cgroup_verdict(tmp_path, nodes=2) is (verdict or None)


_STEPS = "printf '17_1|RUNNING\\n17_1.batch|RUNNING\\n17_1.0|%s\\n' "


@pytest.mark.parametrize(
    ("restarts", "code", "sacct", "status", "killed_for_memory"),
    [
        (0, "0:125", "exit 1", 1, True),
        (0, "0:125", "exit 1", 137, True),
        (0, "0:9", "exit 1", 137, False),
        # A code of an earlier run of the job hides that of this one; accounting knows better.
        (1, "0:125", _STEPS + "CANCELLED", 137, False),
        (1, "0:125", _STEPS + "'CANCELLED by 0'", 137, False),
        (1, "75:0", _STEPS + "OUT_OF_MEMORY", 1, True),
        (1, "0:125", "exit 1", 137, False),
        (1, "0:125", "exit 1", 1, True),
        (1, "75:0", "exit 1", 1, False),
    ],
)
def test_a_kill_for_memory_is_told_from_a_sigkill(
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    restarts: int,
    code: str,
    sacct: str,
    status: int,
    killed_for_memory: bool,
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    commands.add("sacct", sacct)
    _say(commands, code)
    facts = JobFacts("RUNNING", out_of_memory=code.endswith(":125"), step_code=code)
    assert examined(facts, "17_1", status).out_of_memory is killed_for_memory


def test_a_preempted_job_is_not_blamed_for_the_memory_of_an_earlier_run(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = JobFacts("COMPLETING", requeued=True, out_of_memory=True, step_code="0:125")
    assert examined(facts, "17_1", 137).out_of_memory
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not examined(facts, "17_1", 137).out_of_memory
    assert commands.calls() == []


def test_the_end_of_the_step_is_waited_for(commands: Commands) -> None:
    facts = JobFacts("RUNNING", step_code="0:0")
    assert examined(facts, "17_1", 1).out_of_memory
    _say(commands, "0:0")
    assert not examined(facts, "17_1", 1, patience=0.3).out_of_memory


def test_a_code_that_appears_after_a_requeue_is_of_this_run(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert examined(JobFacts("RUNNING", step_code="0:0"), "17_1", 137).out_of_memory
    assert commands.calls("sacct") == []
