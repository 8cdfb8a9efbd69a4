"""The Adding Problem under signals: it ends as if there had been none."""

import random
import signal
from pathlib import Path

from support.adding import adding_plan
from support.comparison import differences
from support.faults import run_until, train_under_fire

from cluster.calls import Call
from cluster.stage import Stage
from jobs.adding.training import train
from kernels.lstm import AddingNetwork

#: Steps of the member, and passes through the network in each: one a grain.
STEPS, GRAINS = 200, 2
#: One network, averaged, that gets new sequences in every step and does not reach its goal.
OVERRIDES = (
    "seeds=1",
    "length=12",
    "sweep.length=[12]",
    "sweep.contestant=[lstm_chrono]",
    f"tasks=[{{length: 12, steps: {STEPS}, goal: 1e-9}}]",
    "resources.train.checkpoint_seconds=0.1",
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)


def test_signals_at_random_moments_change_nothing(tmp_path: Path) -> None:
    twin, plan = (adding_plan(tmp_path / name, *OVERRIDES) for name in ("twin", "shot"))
    run_until(twin, "inline", "train")
    draw = random.Random()
    # Long before the end, between any two operations.
    shots = [
        (draw.choice(SIGNALS), draw.randrange(STEPS * GRAINS // 8), draw.uniform(0, 0.01))
        for _ in range(2)
    ]
    fired = (train, AddingNetwork, plan.config, shots)
    run_until(plan, "local", "train", [Call(train_under_fire, fired)])
    (member,) = Stage.load(plan.directory, "train")
    assert len(member.ledger.attempts()) == 3, shots
    assert differences(plan.directory, twin.directory, folders=["ensemble.zarr"]) == [], shots
