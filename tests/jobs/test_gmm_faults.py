"""The mixture job under faults, a bad batch among its data: it ends as if there had been none."""

import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.comparison import differences
from support.faults import run_until, train_out_of_memory, train_under_fire
from support.gmm import BAD_STEP, gmm_plan, train_spoiled

from cluster import Cause
from cluster.calls import Call
from cluster.executor import Backend
from cluster.stage import Stage
from kernels.gmm.refiner import Refiner
from pipelines.tracking import VOLATILE, read_metrics

OVERRIDES = ("resources.train.checkpoint_seconds=0.1",)
#: Steps of a member, and passes through the network in each: one a grain.
STEPS, GRAINS = 20, 4
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)


def trained(runs: Path, backend: Backend, calls: Sequence[Call]) -> Path:
    """Run all stages but the last, the training as told."""
    plan = gmm_plan(runs, *OVERRIDES)
    run_until(plan, "inline", "simulate")
    run_until(plan, backend, "train", calls)
    run_until(plan, "inline", "evaluate")
    return plan.directory


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell but the bad batch."""
    runs = tmp_path_factory.mktemp("twin")
    config = gmm_plan(runs, *OVERRIDES).config
    return trained(runs, "inline", [Call(train_spoiled, (config,))] * 2)


def kept(run: Path) -> dict[str, bytes]:
    """The batches of skipped steps."""
    paths = run.glob("members/train/*/skipped/*.pt")
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def test_the_bad_batch_was_skipped_and_told_of(twin: Path) -> None:
    assert sorted(kept(twin)) == [
        f"members/train/{index:04d}/skipped/{BAD_STEP:08d}.pt" for index in range(2)
    ]
    for member in Stage.load(twin, "train"):
        rows = read_metrics(member.directory / "metrics.jsonl", without=VOLATILE)
        (event,) = (row for row in rows if "event" in row)
        assert event["step"] == BAD_STEP + 1
        assert event["not_finite"] == "input masses"
        assert rows[-1]["skipped"] == 1


def test_signals_at_random_moments_change_nothing(twin: Path, tmp_path: Path) -> None:
    config = gmm_plan(tmp_path, *OVERRIDES).config
    draw = random.Random()
    shots = [  # two a member, both before its end, between any two operations
        [(draw.choice(SIGNALS), draw.randrange(25), draw.uniform(0, 0.02)) for _ in range(2)]
        for _ in range(2)
    ]
    calls = [Call(train_under_fire, (train_spoiled, Refiner, config, each)) for each in shots]
    run = trained(tmp_path, "local", calls)
    assert [len(m.ledger.attempts()) for m in Stage.load(run, "train")] == [3, 3], shots
    assert differences(run, twin) == [], shots
    assert kept(run) == kept(twin), shots


def test_out_of_memory_changes_nothing_but_the_microbatch(twin: Path, tmp_path: Path) -> None:
    config = gmm_plan(tmp_path, *OVERRIDES).config
    # The skipped step makes no pass, and the size of the last step is noted by none after it.
    passes = [random.randrange(GRAINS * (STEPS - 2)) for _ in range(2)]
    calls = [Call(train_out_of_memory, (train_spoiled, Refiner, config, each)) for each in passes]
    run = trained(tmp_path, "inline", calls)
    assert differences(run, twin, sizes_too=False) == [], f"after {passes} passes"
    assert kept(run) == kept(twin)
    for member in Stage.load(run, "train"):
        assert [attempt.cause for attempt in member.ledger.attempts()] == [Cause.FINISHED]
        sizes = [e["microbatch"] for e in member.ledger.events() if e["event"] == "microbatch"]
        assert sizes == [20, 10]
