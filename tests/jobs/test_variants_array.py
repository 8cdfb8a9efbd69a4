"""The array of `python -m benchmarks.variants`: traces, twins, and what is held against them.

Its faults are those of the campaigns, see tests/cluster/test_campaign_on_slurm.py.
"""

from pathlib import Path

import pytest
import torch

from benchmarks.faults.scene import Trace
from benchmarks.faults.work import Terms
from benchmarks.variants.array import VariantsArray
from benchmarks.variants.grid import STEPS, config_of, plan_of
from benchmarks.variants.twins import ended_alike, left_alike, run_twins, twins_of
from jobs.outputs import weights_path

SMALLER = (
    "sweep={network: {variant: [concat]}, split: {kind: [site, time]}}",
    "seeds=1",
    "sites={count: 16, per_shard: 16}",
    "windows.stride=60",
    "training={epochs: 1, batch: 8, microbatch: 8, grain: 4}",
)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[VariantsArray, VariantsArray]:
    """Two members, of which the first is a victim that nothing befalls, and their twins."""
    terms = Terms(tmp_path_factory.mktemp("array"), members=1, steps=STEPS, pace=0.0, save_every=1)
    plan = plan_of(terms, terms.root / "runs", "resources.train.checkpoint_seconds=9.0", *SMALLER)
    array = VariantsArray(plan, terms, [0], "inline")
    array.lay_out(pace=0.0)
    array.launcher.run()
    run_twins(plan, terms, [0], [1])
    return array, twins_of(plan, terms, [0])


def test_the_grid_is_that_of_the_issue(tmp_path: Path) -> None:
    config = config_of(plan_of(Terms(tmp_path), tmp_path))
    axes = {name: {point[name] for point in config.points} for name in config.points[0]}
    assert {name: len(values) for name, values in axes.items()} == {
        "network.variant": 9,
        "split.kind": 3,
    }
    assert config.members == 9 * 3 * 5


def test_a_victim_leaves_a_trace_and_ends_as_its_twin(
    arrays: tuple[VariantsArray, VariantsArray],
) -> None:
    array, twins = arrays
    (life,) = Trace(array.terms.scene(array.name, 0).trace_file).read().lives
    assert [step for _, step in life.steps] == list(range(1, len(life.steps) + 1))
    assert ended_alike(array, twins, 0)
    assert left_alike(array, twins, 1)


def test_a_bit_that_differs_is_found(arrays: tuple[VariantsArray, VariantsArray]) -> None:
    array, twins = arrays
    path = weights_path(array.plan.directory, 1)
    weights = torch.load(path, weights_only=True)
    weights["recurrence.bias"].view(torch.int32)[0] += 1
    torch.save(weights, path)
    assert not left_alike(array, twins, 1)
