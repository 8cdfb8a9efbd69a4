"""Laws of the training loop short of memory: what fits, and when, changes no bit of the result."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.regression import BATCH, RICH, Regression, Run, config
from support.shortage import Device, Refusing
from support.small_work import equal
from torch import Tensor, nn

from cluster import Attempt, Cause, RobustExecutor
from pipelines.training.loop import Trainer

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("quick_collection")

#: Settings that change what fits, and not what comes out.
SIZES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "auto": {"microbatch": "auto"},
    "growing": {"grow_after": 1},
    "both": {"microbatch": "auto", "grow_after": 2},
}


def rich_network() -> nn.Module:
    """With generators and buffers in use, which every failed try has to put back."""
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    )


def train(
    sizes: Mapping[str, Any], refusals: Sequence[int], attempt: Attempt
) -> tuple[Mapping[str, Any], int]:
    """Two epochs; in each attempt the allocator refuses at one operation of torch, if at any.

    Returns:
        The trainer's last state, and how many operations the last attempt took.
    """
    network = rich_network()
    ask = config(**RICH | {"epochs": 2, "grain": 2} | dict(sizes))
    trainer = Trainer(network, Regression(network), ask, lambda *_: None, attempt)
    attempt.restore(trainer)
    with Refusing(*refusals[attempt.number - 1 : attempt.number]) as allocator:
        for _ in attempt.steps(trainer):
            trainer.step()
    return trainer.state_dict(), allocator.seen


def run(sizes: Mapping[str, Any], refusals: Sequence[int]) -> tuple[Any, int, list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        executor = RobustExecutor(Path(folder), "inline", checkpoint_seconds=0.0)
        job = executor.submit(train, sizes, refusals)
        state, operations = job.result()
        return state, operations, [attempt.cause for attempt in job.member.ledger.attempts()]


@pytest.fixture(scope="module")
def whole() -> tuple[Any, int]:
    state, operations, causes = run({}, [])
    assert causes == [Cause.FINISHED]
    return state, operations


def _without_sizes(state: Mapping[str, Any]) -> dict[str, Any]:
    return dict(state) | {"accumulator": None, "fitted": None}


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(sorted(SIZES)), data=st.data())
def test_refused_at_any_operation_it_ends_bit_identical(
    whole: tuple[Any, int], name: str, data: st.DataObject
) -> None:
    state, operations = whole
    refusals = data.draw(st.lists(st.integers(0, operations - 1), max_size=3))
    found, _, causes = run(SIZES[name], refusals)
    assert equal(_without_sizes(found), _without_sizes(state))
    assert found["accumulator"]["grain"] == 2
    assert set(causes[:-1]) <= {Cause.DEVICE_OOM}
    assert len(causes) <= 1 + len(refusals)


def test_a_later_optimizer_step_is_taken_again_from_the_last_checkpoint(
    whole: tuple[Any, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    plain = torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW, closure: Any = None) -> Any:
        moving = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        steps.append(len(moving))
        with Refusing(*[20] * (len(steps) == 4)):
            return plain(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    found, _, causes = run({}, [])
    assert causes == [Cause.DEVICE_OOM, Cause.FINISHED]
    # Whole until one is cut short, and then one parameter at a time.
    assert steps == [6] * 4 + [1] * 6 * 5
    assert equal(_without_sizes(found), _without_sizes(whole[0]))


class OnDevice(Regression):
    """The regression on a device that may be too small."""

    device = Device(BATCH)

    def losses(self, batch: tuple[Tensor, Tensor], part: slice) -> Tensor:
        return self.device.hold(super().losses(batch, part))


def _run_on(device: Device, **changes: Any) -> Run:
    run = Run(config(**RICH | {"grain": 2} | changes))
    run.trainer.objective = OnDevice(run.trainer.network)
    run.trainer.objective.device = device
    return run


@pytest.mark.parametrize(("capacity", "fitted"), [(12, 12), (11, 8), (7, 4), (2, 2)])
def test_the_largest_microbatch_is_found_once(capacity: int, fitted: int) -> None:
    run, twin = _run_on(Device(capacity), microbatch="auto"), Run(config(**RICH | {"grain": 2}))
    state = run.go(1).state()
    # The largest is 12, 10, 6 or 2; where it is not all of the batch a tenth is left free.
    assert run.trainer.microbatch == fitted
    again = _run_on(Device(BATCH), microbatch="auto")
    again.trainer.load_state_dict(state)
    again.go()
    assert again.trainer.microbatch == fitted
    assert equal(_without_sizes(again.state()), _without_sizes(twin.go().state()))


def test_the_largest_microbatch_is_within_a_limit_and_noted() -> None:
    run, noted = _run_on(Device(BATCH), microbatch="auto"), list[int]()
    run.trainer._note = noted.append
    run.trainer.limit_microbatch(7)
    run.go(1)
    assert run.trainer.microbatch == 6
    assert noted == [2, 4, 6, 6]


def test_sizes_grow_back_when_a_shortage_ends() -> None:
    device = Device(5)
    run, twin = _run_on(device, grow_after=2), Run(config(**RICH | {"grain": 2}))
    run.go(1)
    assert run.trainer.microbatch == 2
    device.capacity = BATCH
    run.go()
    assert run.trainer.microbatch == BATCH
    assert equal(_without_sizes(run.state()), _without_sizes(twin.go().state()))
