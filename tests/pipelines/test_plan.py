"""Plans: what makes two of them one run, and what a run directory refuses."""

import dataclasses
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster import Budgets, HostMemory, RobustExecutor
from cluster.memory.hostmemory import Order
from cluster.scheduler.quantities import MemorySize, Walltime
from cluster.stage import RunError
from pipelines.config import Config, ConfigError, digest, load
from pipelines.plan import (
    HostMemoryRules,
    Plan,
    Resources,
    RetryBudgets,
    StagePlan,
    check_digest,
    git_state,
    identity,
    load_plan,
)


class Tracking(Config):
    wandb: bool = False


class Work(Config):
    seed: int = 0
    rate: float = 2e-4
    channels: tuple[int, ...] = (96, 192)
    resources: Resources = Resources()
    tracking: Tracking = Tracking()


class Bare(Config):
    seed: int = 0
    rate: float = 2e-4
    channels: tuple[int, ...] = (96, 192)


def plan(runs: Path, config: Config | None = None, job: str = "work") -> Plan:
    config = Work() if config is None else config
    resources = getattr(config, "resources", Resources())
    stages = [StagePlan("train", "jobs.work:train", 3, resources)]
    return Plan(job, config, stages, runs)


works = st.builds(Work, seed=st.integers(), rate=st.floats(allow_nan=False))
asked = st.builds(
    Resources,
    cpus=st.integers(1, 64),
    gpus=st.integers(0, 8),
    memory=st.integers(1, 10**6).map(MemorySize),
    time=st.integers(1, 10**6).map(Walltime),
    partition=st.none() | st.text(),
    parallelism=st.none() | st.integers(1, 100),
    keep=st.integers(2, 9),
    keep_bytes=st.none() | st.integers(1, 10**6).map(MemorySize),
    host_memory=st.builds(HostMemoryRules, order=st.sampled_from(Order)),
    budgets=st.builds(RetryBudgets, error=st.integers(0, 9)),
)


@given(config=works, resources=asked, wandb=st.booleans())
def test_resources_and_tracking_are_no_part_of_the_identity(
    config: Work, resources: Resources, wandb: bool
) -> None:
    other = config.model_copy(update={"resources": resources, "tracking": Tracking(wandb=wandb)})
    assert identity(other) == identity(config)
    assert plan(Path("runs"), other).directory == plan(Path("runs"), config).directory
    assert (digest(other) == digest(config)) == (other == config)


@given(a=works, b=works)
def test_everything_else_is(a: Work, b: Work) -> None:
    assert (identity(a) == identity(b)) == ((a.seed, a.rate) == (b.seed, b.rate))
    assert identity(a) == identity(Work(seed=a.seed, rate=a.rate))


@pytest.mark.parametrize("rate", [1e-5, -0.0, math.inf, -math.inf, math.nan])
def test_the_identity_is_the_digest_of_what_is_left(rate: float) -> None:
    assert identity(Work(rate=rate)) == digest(Bare(rate=rate)) == identity(Bare(rate=rate))


def test_a_digest_names_the_job_and_what_it_computes(tmp_path: Path) -> None:
    first = plan(tmp_path)
    assert len(first.digest) == 64
    assert first.digest == plan(tmp_path / "elsewhere").digest
    assert first.digest != plan(tmp_path, job="other").digest
    assert first.digest != plan(tmp_path, Work(seed=1)).digest
    assert first.directory == tmp_path / f"work-{first.digest[:10]}"


def test_a_run_directory_is_absolute_wherever_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(Path("runs")).directory.parent == tmp_path / "runs"


def test_a_saved_plan_reads_back(tmp_path: Path) -> None:
    saved = plan(tmp_path, Work(rate=1e-5, channels=(1, 2, 3)))
    saved.save()
    record = load_plan(saved.directory)
    assert record == saved.record()
    assert Work.model_validate(record["config"], strict=False) == saved.config
    assert record["stages"][0] | {"resources": 0} == {
        "name": "train",
        "function": "jobs.work:train",
        "members": 3,
        "wait": "all",
        "resources": 0,
    }


def test_saving_the_same_plan_again_writes_nothing(tmp_path: Path) -> None:
    plan(tmp_path).save()
    path = plan(tmp_path).directory / "plan.yaml"
    before = path.stat()
    plan(tmp_path).save()
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    "changed",
    [
        Work(resources=Resources(time=Walltime.parse("2-00:00:00"))),
        Work(tracking=Tracking(wandb=True)),
    ],
)
def test_other_resources_take_the_place_of_the_first(tmp_path: Path, changed: Work) -> None:
    plan(tmp_path).save()
    directory = plan(tmp_path).directory
    first = (directory / "plan.yaml").stat().st_ino
    plan(tmp_path, changed).save()
    assert load_plan(directory) == plan(tmp_path, changed).record()
    assert (directory / "plan.yaml").stat().st_ino != first  # by rename, so never half of each
    assert [path.name for path in directory.iterdir()] == ["plan.yaml"]


def test_the_directory_of_another_plan_is_refused_and_left_alone(tmp_path: Path) -> None:
    mine, other = plan(tmp_path), plan(tmp_path, Work(seed=1))
    other.save()
    other.directory.rename(mine.directory)
    before = (mine.directory / "plan.yaml").read_bytes()
    with pytest.raises(RunError, match=f"found one of job 'work', plan {other.digest[:10]}"):
        mine.save()
    assert (mine.directory / "plan.yaml").read_bytes() == before
    check_digest(mine.directory, other.digest)


NO_PLANS: dict[str, bytes] = {
    "torn": b"job: work\nconfig: {seed: 0",
    "binary": bytes(range(256)),
    "latin": "job: f\u00fcnf".encode("latin-1"),
    "empty": b"",
    "list": b"- job\n- digest\n- config\n",
    "another": b"name: something else\n",
    "untyped": b"job: work\ndigest: 12\nconfig: none\n",
    "tagged": b"!!python/object:os.system {}\n",
}


@pytest.mark.parametrize("kind", NO_PLANS)
def test_a_file_that_is_no_plan_is_told_with_its_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(NO_PLANS[kind])
    with pytest.raises(RunError, match=rf"^{path}: expected a plan") as caught:
        load_plan(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("", "none there"), ("gone", "no such directory")])
def test_a_directory_without_a_plan_is_told(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(RunError, match=f"expected a run directory, .* found {said}"):
        load_plan(tmp_path / name)


def test_resources_become_the_parameters_of_submitit() -> None:
    ask = Resources(
        cpus=4,
        gpus=1,
        memory=MemorySize.parse("16G"),
        time=Walltime.parse("1-00:00:00"),
        partition="gpu",
        parallelism=2,
    )
    assert ask.parameters("train") == {
        "name": "train",
        "timeout_min": 1440,
        "cpus_per_task": 4,
        "mem_gb": 16,
        "gpus_per_node": 1,
        "slurm_partition": "gpu",
        "slurm_signal_delay_s": 90,
        "slurm_array_parallelism": 2,
    }


def test_what_is_not_asked_for_is_left_to_the_cluster() -> None:
    found = Resources(memory=MemorySize.parse("512M")).parameters("x")
    assert found["mem_gb"] == 0.5
    assert not found.keys() & {"slurm_partition", "slurm_account", "slurm_qos", "gpus_per_node"}


@pytest.mark.parametrize(
    "wrong", [{"cpus": 0}, {"gpus": -1}, {"parallelism": 0}, {"checkpoint_seconds": 0.0}]
)
def test_impossible_resources_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="greater than"):
        Resources(**wrong)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("keep: 1", "keep: expected a number greater than or equal to 2, found 1"),
        ("keep_bytes: 20", "keep_bytes: expected a memory size with its unit, as in 16G, found 20"),
        ("host_memory: {growth: 1.0}", "growth: expected a number greater than 1, found 1.0"),
        ("host_memory: {growth: .inf}", "growth: expected a finite number, found inf"),
        ("host_memory: {memory_cap: 0.5}", "memory_cap: expected a number greater than or equal"),
        (
            "host_memory: {order: memory}",
            "order: expected 'microbatch first', 'memory first', 'microbatch only' or "
            "'memory only', found 'memory'",
        ),
        ("budgets: {killed: -1}", "killed: expected a number greater than or equal to 0, found -1"),
        ("budgets: {kiled: 1}", "budgets.kiled: unknown key; did you mean 'killed'?"),
    ],
)
def test_a_wrong_rule_is_one_clear_error(tmp_path: Path, section: str, said: str) -> None:
    path = tmp_path / "work.yaml"
    path.write_text(f"resources:\n  {section}\n")
    with pytest.raises(ConfigError) as caught:
        load(Work, path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:2: resources.")
    assert said in problem


def test_the_rules_are_what_the_executor_takes(tmp_path: Path) -> None:
    path = tmp_path / "work.yaml"
    path.write_text(
        "resources:\n  checkpoint_seconds: 30.0\n  keep: 3\n  keep_bytes: 2M\n"
        "  host_memory: {order: memory first, memory_cap: 2.0}\n  budgets: {error: 1}\n"
    )
    rules = RobustExecutor(tmp_path, "inline", **load(Work, path).config.resources.rules()).stage
    assert (rules.checkpoint_seconds, rules.keep, rules.keep_bytes) == (30.0, 3, 2 * 1024**2)
    assert rules.host_memory == HostMemory(Order.MEMORY_FIRST, memory_cap=2.0)
    assert rules.budgets == Budgets(error=1)


def test_by_default_the_rules_are_the_executors_own(tmp_path: Path) -> None:
    given_none = RobustExecutor(tmp_path, "inline").stage
    assert RobustExecutor(tmp_path, "inline", **Resources().rules()).stage == given_none
    fields = {field.name for field in dataclasses.fields(Budgets)}
    assert fields == RetryBudgets.model_fields.keys()


def _git(directory: Path, *arguments: str) -> None:
    who: Sequence[str] = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(directory), *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_the_state_of_a_work_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    _git(tmp_path, "init")
    assert git_state(tmp_path) is None  # no commit yet
    _git(tmp_path, "commit", "--allow-empty", "-m", "first")
    clean = git_state(tmp_path)
    (tmp_path / "new").touch()
    dirty = git_state(tmp_path)
    assert clean is not None
    assert dirty == clean | {"dirty": True}
    assert clean["dirty"] is False
    assert len(clean["revision"]) == 40


def test_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert git_state() is None
    assert plan(tmp_path).record()["git"] is None


def test_plan_yaml_is_plain_yaml(tmp_path: Path) -> None:
    plan(tmp_path).save()
    text = (plan(tmp_path).directory / "plan.yaml").read_text()
    assert "!!" not in text
    assert yaml.safe_load(text)["job"] == "work"
