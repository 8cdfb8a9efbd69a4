"""Laws of batch scripts: every member once, the same text each time, and a text that runs."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import RUNNING, Commands

from cluster import Budgets, Cause, RobustExecutor, RobustJob
from cluster.calls import Call
from cluster.environment import THREADS
from cluster.stage import Stage
from cluster.submitting.submission import Script, ScriptWriter, id_of, shared_out

cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: Runs its command as srun does, and ends with 128 + signal where that was killed.
SRUN = """
while [[ "$1" == -* ]]; do
  [[ "$1" == --output ]] && shift
  shift
done
"$@"
"""

AWKWARD = """a run of Ada's "own" $HOME; `x`"""


def _writer(run: Path, **parameters: Any) -> ScriptWriter:
    writer = ScriptWriter(run)
    writer.update_parameters(**parameters)
    return writer


def _flags(text: str) -> dict[str, str]:
    """The options that sbatch reads from a script."""
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line]
    pairs = [shlex.split(line)[0].partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


def _elements(array: str) -> list[int]:
    spans = [part.split("-") for part in array.split("%")[0].split(",")]
    return [element for span in spans for element in range(int(span[0]), int(span[-1]) + 1)]


def _offset(script: Script) -> int:
    worker = next(line for line in script.text.splitlines() if line.startswith("srun "))
    return int(shlex.split(worker)[-1])


@given(
    st.lists(st.integers(0, 5000), unique=True, max_size=60),
    st.integers(1, 1200) | st.integers(1, 4000),
    st.none() | st.integers(1, 70),
)
@settings(max_examples=60, deadline=None)
def test_every_member_is_in_one_element_of_one_array(
    indices: list[int], chunk: int, parallel: int | None
) -> None:
    stage = Stage(Path("/run"), "train", members=5001)
    writer = ScriptWriter(stage.run)
    if parallel is not None:
        writer.update_parameters(slurm_array_parallelism=parallel)
    scripts = writer.scripts(stage, indices, chunk)
    carried: list[int] = []
    for script in scripts:
        array = _flags(script.text)["array"]
        elements = _elements(array)
        assert max(elements) < chunk
        assert sorted(script.indices) == [_offset(script) + element for element in elements]
        assert ("%" in array) == (parallel is not None)
        carried += script.indices
    assert sorted(carried) == sorted(indices)
    assert len({script.path for script in scripts}) == len(scripts)
    if parallel is not None:
        assert _most_at_once(scripts) == min(parallel, len(indices))


def _most_at_once(scripts: list[Script]) -> int:
    """How many members may run at the same time: of arrays in a chain, those of one alone.

    A chain is known by its first array, which waits for none.
    """
    chains: dict[Path, list[int]] = {}
    first: dict[Path, Path] = {}
    for script in scripts:
        flags = _flags(script.text)
        before = script.follows
        assert flags.get("dependency") == (before and f"afterany:{id_of(before)}")
        first[script.path] = first[before] if before else script.path
        throttle = int(flags["array"].partition("%")[2])
        assert 1 <= throttle <= len(script.indices)
        chains.setdefault(first[script.path], []).append(throttle)
    return sum(max(throttles) for throttles in chains.values())


def test_an_array_that_waits_is_told_for_which(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "train", members=2_000_000)
    waits = {"dependency": "afterok:7"}
    writer = _writer(
        tmp_path, slurm_array_parallelism=1, slurm_additional_parameters=waits, cpus_per_task=1
    )
    # As file names the second begins with the first.
    first, second = writer.scripts(stage, [100_000, 1_000_000], 100_000)
    assert second.path.stem.startswith(first.path.stem)
    assert _flags(first.text)["dependency"] == "afterok:7"
    assert _flags(second.behind("200001").text)["dependency"] == "afterok:7,afterany:200001"
    assert first.behind("200001") == first


@given(st.lists(st.integers(1, 1001), min_size=1, max_size=30), st.integers(1, 3000))
def test_a_parallelism_is_shared_out_whole(sizes: list[int], parallelism: int) -> None:
    shares = shared_out(parallelism, sizes)
    assert all(1 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert sum(shares) == max(len(sizes), min(parallelism, sum(sizes)))
    if parallelism >= len(sizes):
        # In proportion, up to rounding: a chunk twice as large takes as long.
        fair = [
            1 + (sum(shares) - len(sizes)) * (n - 1) / max(1, sum(sizes) - len(sizes))
            for n in sizes
        ]
        assert all(abs(share - f) < 1 for share, f in zip(shares, fair, strict=True))


def test_the_text_is_the_same_each_time(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "train", members=30)
    parameters = {"slurm_partition": "long", "cpus_per_task": 3, "slurm_setup": ["module load x"]}
    writer = _writer(tmp_path, **parameters)
    first = writer.scripts(stage, range(30), 8)
    assert writer.scripts(stage, range(30), 8) == first
    assert _writer(tmp_path, **parameters).scripts(stage, range(30), 8) == first


def test_what_makes_a_job_survive_is_ordered(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "train", members=1, signal_delay=45)
    (script,) = _writer(tmp_path, slurm_partition="long").scripts(stage, [0], 1001)
    flags = _flags(script.text)
    assert {key: flags[key] for key in ("requeue", "signal", "open-mode", "partition")} == {
        "requeue": "",
        "signal": "USR2@45",
        "open-mode": "append",
        "partition": "long",
    }


def test_submitits_own_names_are_taken(tmp_path: Path) -> None:
    # A user of submitit changes one line: what he passes to its AutoExecutor is understood.
    executor = RobustExecutor(tmp_path, "local")
    executor.update_parameters(
        name="waves",
        timeout_min=90,
        mem_gb=16,
        nodes=1,
        gpus_per_node=1,
        cpus_per_task=4,
        slurm_partition="long",
    )
    executor.lay_out([Call(divmod, (7, 2))])
    (script,) = executor.scripts([0])
    flags = _flags(script.text)
    names = ("job-name", "time", "mem", "gpus-per-node", "cpus-per-task", "partition")
    assert [flags[name] for name in names] == ["waves", "90", "16GB", "1", "4", "long"]
    assert executor.stage.cpus == 4


def test_a_parameter_that_is_none_of_submitits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="walltime"):
        _writer(tmp_path, walltime=5)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"slurm_use_srun": False}, "use_srun"),  # without srun no one sends USR2 to the member
        ({"tasks_per_node": 0}, "tasks_per_node: expected a whole number >= 1"),
        ({"slurm_nodes": "2-4"}, "slurm_nodes: expected a whole number >= 1"),  # none to count on
        ({"slurm_additional_parameters": {"ntasks": 4}}, "tasks_per_node"),
    ],
)
def test_what_would_break_a_member_is_refused(
    tmp_path: Path, parameters: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        _writer(tmp_path, **parameters)


@pytest.mark.parametrize("prefix", ["", "slurm_n"])
def test_ranks_are_started_and_ended_together(tmp_path: Path, prefix: str) -> None:
    executor = RobustExecutor(tmp_path, "local")
    executor.update_parameters(**{"nodes": 2, f"{prefix}tasks_per_node": 3})
    executor.update_parameters(timeout_min=5)
    assert executor.stage.tasks == 6
    executor.lay_out([Call(divmod, (7, 2))])
    (script,) = executor.scripts([0])
    flags = _flags(script.text)
    assert (flags["nodes"], flags["ntasks-per-node"]) == ("2", "3")
    srun = next(line for line in script.text.splitlines() if line.startswith("srun "))
    options = ["--nodes=2", "--ntasks=6", "--ntasks-per-node=3", "--kill-on-bad-exit=1", "--wait=0"]
    assert set(options) <= set(shlex.split(srun))


def test_a_single_rank_is_asked_for_as_ever(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "train", members=1)
    asked = _writer(tmp_path, nodes=1, tasks_per_node=None).scripts(stage, [0], 1001)
    assert "--ntasks" not in asked[0].text
    assert "--kill-on-bad-exit=0" in asked[0].text


def test_an_inline_member_has_one_rank(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inline is one process"):
        RobustExecutor(tmp_path, "inline").update_parameters(nodes=2)


def test_a_percent_sign_in_the_path_is_no_pattern_of_slurms(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "100%job", "train", members=1)
    (script,) = ScriptWriter(stage.run).scripts(stage, [0], 1001)
    output = _flags(script.text)["output"]
    assert output.replace("%%", "").count("%") == len(("%A", "%a"))


def _report_environment() -> Mapping[str, str]:
    return dict(os.environ)


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands(tmp_path / "bin", monkeypatch)
    commands.add("srun", SRUN)
    commands.add("scontrol", f'[ "$1" = show ] && echo "{RUNNING}"; exit 0')
    commands.add("sacct", "exit 1")
    return commands


def _execute(run: Path, call: Call, budgets: Budgets) -> tuple[RobustJob, int, str]:
    """Lay out member 1003 in chunks of 1000, and run its script as element 3 of the second."""
    executor = RobustExecutor(run, "local", budgets=budgets)
    executor.update_parameters(cpus_per_task=2)
    executor.stage = Stage(executor.stage.run, "job", members=1003, budgets=budgets, cpus=2)
    (job,) = executor.lay_out([call])
    (script,) = executor._scripts.scripts(executor.stage, [1003], 1000)
    job.member.ledger.queued()
    ids = {"JOB_ID": "18", "ARRAY_JOB_ID": "17", "ARRAY_TASK_ID": "3", "CPUS_PER_TASK": "2"}
    environment = os.environ | {f"SLURM_{name}": value for name, value in ids.items()}
    subprocess.run(["bash", "-n"], input=script.text, text=True, check=True)
    done = subprocess.run(
        ["bash"], input=script.text, text=True, env=environment, capture_output=True, check=False
    )
    return job, done.returncode, done.stderr


def test_a_script_runs_its_member_wherever_the_run_lies(tmp_path: Path, commands: Commands) -> None:
    job, status, said = _execute(tmp_path / AWKWARD, Call(_report_environment), Budgets())
    assert (status, said) == (0, "")
    environment = job.result()
    assert {environment[name] for name in (*THREADS, "SRUN_CPUS_PER_TASK")} == {"2"}
    assert commands.calls("scontrol requeue") == []
    (attempt,) = job.member.ledger.attempts()
    assert attempt.where["slurm"]["array_job_id"] == "17"


def test_a_killed_worker_is_noted_and_requeued_once(tmp_path: Path, commands: Commands) -> None:
    job, status, _ = _execute(tmp_path / AWKWARD, Call(_kill_self), Budgets())
    assert status == 137
    (attempt,) = job.member.ledger.attempts()
    assert (attempt.cause, attempt.detail) == (Cause.KILLED, {"status": 137})
    assert commands.calls("scontrol requeue") == ["scontrol requeue 17_3"]


def test_term_to_the_whole_job_still_runs_the_exit_trap(tmp_path: Path, commands: Commands) -> None:
    # slurmd sends TERM to the batch shell as well: it must outlive srun. No worker is needed.
    commands.add("srun", "kill -TERM $PPID; sleep 0.2; exit 75")
    job, status, said = _execute(tmp_path / "run", Call(_kill_self), Budgets())
    assert status == 75, said
    assert re.search(r"^scontrol show job", "\n".join(commands.calls()), re.MULTILINE)
    assert len(job.member.ledger.attempts()) <= 1
