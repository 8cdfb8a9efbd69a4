"""The Adding Problem under signals: it ends as if there had been none."""

import random
import signal
from dataclasses import replace
from pathlib import Path

from support.adding import adding_plan, train_under_fire
from support.comparison import differences

from cluster import Member
from cluster.calls import Call
from cluster.executor import Backend
from cluster.stage import Stage
from jobs.launch import Launcher
from pipelines.plan import Plan

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


def trained(plan: Plan, backend: Backend, call: Call | None = None) -> Path:
    """Run the training, as told or else as the job does."""
    launcher = Launcher(replace(plan, stages=plan.stages[:1]), backend)
    launcher.lay_out()
    if call is not None:
        call.save(Member(plan.directory, "train", 0))
    launcher.run()
    return plan.directory


def test_signals_at_random_moments_change_nothing(tmp_path: Path) -> None:
    twin = trained(adding_plan(tmp_path / "twin", *OVERRIDES), "inline")
    plan = adding_plan(tmp_path / "shot", *OVERRIDES)
    draw = random.Random()
    # Long before the end, between any two operations.
    shots = [
        (draw.choice(SIGNALS), draw.randrange(STEPS * GRAINS // 8), draw.uniform(0, 0.01))
        for _ in range(2)
    ]
    run = trained(plan, "local", Call(train_under_fire, (plan.config, shots)))
    (member,) = Stage.load(run, "train")
    assert len(member.ledger.attempts()) == 3, shots
    assert differences(run, twin, folders=["ensemble.zarr"]) == [], shots
