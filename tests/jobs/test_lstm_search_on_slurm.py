"""An adaptive search on a real Slurm: a requeued worker changes nothing of it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.comparison import differences
from support.faults import run_until
from support.lstm_job import lstm_plan, resolved
from support.victims import Victim, all_ended, kill, lose_node, preempt
from support.waiting import wait

from cluster.slurmbox import SlurmBox
from cluster.stage import Stage
from cluster.status import State, run_status
from jobs.launch import Launcher
from jobs.lstm.searching import open_study
from pipelines.plan import Plan
from pipelines.search import State as TrialState

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SEARCH = (
    "seeds=1",
    "sweep.network.dropout={low: 0.0, high: 0.4}",
    "sweep.training.learning_rate={low: 1e-3, high: 1e-1, log: true}",
    "training.epochs=20",
    "resources.train.gpus=1",  # one worker a node
    "resources.train.signal_delay=20",
    "resources.train.checkpoint_seconds=1.0",
)
ALONE = (*SEARCH, "search={method: adaptive, trials: 6, workers: 1, startup: 2}")
TOGETHER = (*SEARCH, "search={method: adaptive, trials: 8, workers: 2, pruner: hyperband}")


def submitted(plan: Plan) -> list[Victim]:
    """The workers of a search that Slurm has now."""
    launcher = Launcher(plan, "slurm")
    launcher.lay_out()
    launcher.submit()
    return [Victim(member) for member in Stage.load(plan.directory, "train")]


def finished(plan: Plan) -> bool:
    return {member.state for member in run_status(plan.directory)} == {State.FINISHED}


def test_a_requeued_worker_ends_with_the_journal_of_one_that_was_not(
    slurmbox: SlurmBox, tmp_path: Path
) -> None:
    twin = lstm_plan(tmp_path / "twin", *ALONE)
    run_until(twin, "local", "collect")
    plan = lstm_plan(tmp_path / "hurt", *ALONE)
    (worker,) = submitted(plan)
    faults: list[Callable[[], None]] = [
        lambda: preempt(worker, tmp_path),
        lambda: lose_node(worker, slurmbox),
        lambda: kill(worker),
    ]
    for fault in random.sample(faults, len(faults)):
        fault()
    wait(lambda: all_ended(plan.directory), "the search to end", 400)
    assert finished(plan)
    made = ("data/sites.zarr", "ensemble.zarr")  # commits beside the sites name Slurm's job
    assert differences(plan.directory, twin.directory, folders=made) == []
    trials = [open_study(resolved(*ALONE), each.directory).trials for each in (plan, twin)]
    assert trials[0] == trials[1]
    assert len(worker.causes()) == 4, worker.causes()


def test_of_two_workers_a_requeued_one_goes_on_with_its_own_trial(
    slurmbox: SlurmBox, tmp_path: Path
) -> None:
    plan = lstm_plan(tmp_path, *TOGETHER)
    workers = submitted(plan)
    preempt(workers[0], tmp_path)
    kill(workers[1])
    wait(lambda: all_ended(plan.directory), "the search to end", 400)
    assert finished(plan)
    trials = open_study(resolved(*TOGETHER), plan.directory).trials
    assert [trial.number for trial in trials] == list(range(8))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({trial.worker for trial in trials}) == 2
