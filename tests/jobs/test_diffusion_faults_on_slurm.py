"""The diffusion job on a real Slurm: one array, a different fault for each of its members.

Whatever befell them, the run ends with the same bytes as its twin on this machine, which nothing
befell: data, weights, optimizer, generators, metrics, samples.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.comparison import differences
from support.diffusion import diffusion_plan
from support.faults import run_until
from support.victims import Victim, all_ended, kill, lose_node, preempt, scancel, shorten_limit
from support.waiting import wait

from cluster import Cause
from cluster.slurmbox import SlurmBox
from cluster.stage import Stage
from cluster.status import State, run_status
from jobs.launch import Launcher

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

OVERRIDES = (
    "members=5",
    "training.epochs=150",
    "resources.train.gpus=1",  # one member a node
    "resources.train.signal_delay=20",
    "resources.train.checkpoint_seconds=2.0",
)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on this machine that nothing befell."""
    plan = diffusion_plan(tmp_path_factory.mktemp("twin"), *OVERRIDES)
    run_until(plan, "local", "collect")
    return plan.directory


def test_five_faults_in_one_array_change_nothing(
    slurmbox: SlurmBox, twin: Path, tmp_path: Path
) -> None:
    plan = diffusion_plan(tmp_path, *OVERRIDES)
    launcher = Launcher(plan, "slurm")
    launcher.lay_out()
    launcher.submit()
    victims = [Victim(member) for member in Stage.load(plan.directory, "train")]
    faults: list[Callable[[Victim], None]] = [
        lambda victim: preempt(victim, tmp_path),
        lambda victim: lose_node(victim, slurmbox),
        shorten_limit,
        kill,
        scancel,
    ]
    with ThreadPoolExecutor(len(faults)) as threads:
        for dealt in [threads.submit(f, v) for f, v in zip(faults, victims, strict=True)]:
            dealt.result()
    wait(lambda: all_ended(plan.directory), "the array to end", 400)
    assert {m.state for m in run_status(plan.directory)} != {State.FINISHED}, "one was cancelled"
    launcher.submit()
    wait(lambda: all_ended(plan.directory), "what was cancelled to end", 300)
    assert {m.state for m in run_status(plan.directory)} == {State.FINISHED}
    assert differences(plan.directory, twin) == []
    expected = (Cause.PREEMPTION, Cause.NODE_FAILURE, Cause.TIMEOUT, Cause.KILLED, Cause.CANCELLED)
    for victim, cause in zip(victims, expected, strict=True):
        assert cause in victim.causes(), f"{victim.member.name}: {victim.causes()}"
