"""The LSTM job under faults: it ends as if there had been none, predictions and scores included."""

import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.comparison import differences
from support.faults import run_until, train_out_of_memory, train_under_fire
from support.lstm_job import lstm_plan

from cluster import Cause
from cluster.calls import Call
from cluster.executor import Backend
from cluster.stage import Stage
from jobs.lstm.training import train
from kernels.lstm import StaticDynamicLSTM

# Coins, dropout and normalization: everything that has a state of its own.
OVERRIDES = (
    "seeds=1",
    "sweep.network.variant=[attention_gate]",
    "network.autoregressive=true",
    "network.dropout=0.2",
    "network.static_norm=true",
    "network.input_norm=true",
    "forcing.scale=3.0",
    "evaluation.horizon=30",
    "resources.train.checkpoint_seconds=0.1",
)
#: Passes through the network in each step: one a grain.
GRAINS = 4
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)


def trained(runs: Path, backend: Backend, calls: Sequence[Call] = ()) -> Path:
    """Run all stages but the last, the training as told."""
    plan = lstm_plan(runs, *OVERRIDES)
    run_until(plan, "inline", "prepare")
    run_until(plan, backend, "train", calls)
    return plan.directory


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell."""
    return trained(tmp_path_factory.mktemp("twin"), "inline")


def test_signals_at_random_moments_change_nothing(twin: Path, tmp_path: Path) -> None:
    config = lstm_plan(tmp_path, *OVERRIDES).config
    draw = random.Random()
    # Two, both before the end of training, between any two operations.
    shots = [(draw.choice(SIGNALS), draw.randrange(20), draw.uniform(0, 0.02)) for _ in range(2)]
    fired = (train, StaticDynamicLSTM, config, shots)
    run = trained(tmp_path, "local", [Call(train_under_fire, fired, {"in_tests": True})])
    (member,) = Stage.load(run, "train")
    assert len(member.ledger.attempts()) == 3, shots
    assert differences(run, twin) == [], shots


def test_out_of_memory_changes_nothing_but_the_microbatch(twin: Path, tmp_path: Path) -> None:
    config = lstm_plan(tmp_path, *OVERRIDES).config
    passes = random.randrange(GRAINS)  # in the first step: validation is not healed
    short = (train, StaticDynamicLSTM, config, passes)
    run = trained(tmp_path, "inline", [Call(train_out_of_memory, short)])
    assert differences(run, twin, sizes_too=False) == [], f"after {passes} passes"
    (member,) = Stage.load(run, "train")
    assert [attempt.cause for attempt in member.ledger.attempts()] == [Cause.FINISHED]
    sizes = [e["microbatch"] for e in member.ledger.events() if e["event"] == "microbatch"]
    assert sizes == [8, 4]
