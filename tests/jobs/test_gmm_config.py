"""What the mixture job's configuration says, sweeps and refuses."""

import dataclasses
import shlex
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from support.gmm import resolved

from jobs.catalog import WORKLOADS
from jobs.gmm.config import (
    DataConfig,
    EvaluationConfig,
    GmmConfig,
    Phase,
    RefinerConfig,
    SupervisionConfig,
    TrainedFamily,
    stages,
)
from jobs.gmm.export import command
from kernels.gmm import refiner
from kernels.gmm.families import TRAINED
from kernels.gmm.initnet import MAX_COMPONENTS
from pipelines.plan import identity
from pipelines.training.settings import TrainingConfig

SMALL = TrainingConfig(batch=8, microbatch=8)
SWEEP = "sweep={training: {learning_rate: [1e-3, 3e-3]}, refiner: {blocks: [2, 3, 4]}}"


def test_the_lists_here_are_those_of_the_kernels() -> None:
    assert set(get_args(TrainedFamily)) == set(DataConfig().families) == set(TRAINED)
    fields = {field.name: field.default for field in dataclasses.fields(refiner.RefinerConfig)}
    assert fields == RefinerConfig().model_dump()
    assert MAX_COMPONENTS == 16


def test_members_are_the_points_of_the_sweep_times_the_seeds() -> None:
    config = resolved(SWEEP, "seeds=2")
    assert config.members == 12
    seen = [
        (c.training.learning_rate, c.refiner.blocks, config.seed_number(m))
        for m in range(12)
        for c in [config.member_config(m)]
    ]
    rates, blocks = (1e-3, 3e-3), (2, 3, 4)
    assert seen == [(r, b, s) for r in rates for b in blocks for s in range(2)]
    assert config.point_of(7) == {"training.learning_rate": 3e-3, "refiner.blocks": 2}
    by_name = {stage.name: stage.members for stage in stages(config)}
    assert by_name == {"simulate": 2, "train": 12, "evaluate": 12, "collect": 1}


def test_nothing_is_simulated_where_nothing_is_stored() -> None:
    names = [stage.name for stage in stages(resolved(preset="small"))]
    assert names == ["train", "evaluate", "collect"]


def test_a_curriculum_goes_through_its_phases() -> None:
    found = [SupervisionConfig().schedule(epoch) for epoch in (0, 4, 5, 1000)]
    assert found == ["final_only"] * 2 + ["linear"] * 2
    always = SupervisionConfig(phases=(Phase(schedule="linear"),))
    assert {always.schedule(epoch) for epoch in range(50)} == {"linear"}


def test_looking_for_anomalies_continues_a_run() -> None:
    looking = resolved("tracking.detect_anomaly=true", "tracking.keep_skipped=50")
    assert identity(looking) == identity(resolved())
    assert identity(resolved("training.max_skipped=0.5")) != identity(resolved())


@pytest.mark.parametrize("preset", ["full", "small", "smoke"])
@pytest.mark.parametrize("overrides", [(), ("seed=3", "refiner.width=8"), (SWEEP,)])
def test_the_command_of_an_export_makes_the_same_job(
    preset: str, overrides: tuple[str, ...]
) -> None:
    config = resolved(*overrides, preset=preset)
    words = shlex.split(command(config))
    assert words[:4] == ["yaoki", "run", "gmm", "--preset"]
    assert len(words) <= 5 + len(overrides)
    again = WORKLOADS["gmm"].resolve(words[4], words[5:]).config
    assert identity(again) == identity(config)


@pytest.mark.parametrize(
    ("section", "wrong", "said"),
    [
        (DataConfig, {"points": (96, 48)}, "fewest and most"),
        (DataConfig, {"components": ()}, "at least one each"),
        (DataConfig, {"components": (17,)}, "less than or equal to 16"),
        (DataConfig, {"families": ("gamma",)}, "Input should be"),
        (DataConfig, {"stored": 10, "per_shard": 4}, "multiple of per_shard, 4; found 10"),
        (SupervisionConfig, {"phases": ()}, "begin at epoch 0"),
        (EvaluationConfig, {"densities": 0}, "greater than 0"),
        (GmmConfig, {"seeds": 0}, "greater than 0"),
        (GmmConfig, {"sweep": {"data": {"points": [[8, 9]]}}}, "refiner, supervision, training"),
        (
            GmmConfig,
            {"sweep": {"training": {"batch": [4]}}},
            "expected grain <= microbatch",
        ),
        (GmmConfig, {"training": SMALL}, "number of data.families, 10; found 8"),
        (GmmConfig, {"data": DataConfig(stored=40, per_shard=20)}, "multiple of training.batch"),
    ],
)
def test_impossible_values_are_refused_before_anything_runs(
    section: type[Any], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        section(**wrong)
