"""What is not finite reaches neither weights nor optimizer, is told of, and can be taken again."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.regression import BATCH, config
from support.small_work import equal
from torch import Tensor, nn

from cluster.checkpoints import random_state
from pipelines.training.guard import (
    Fault,
    Guard,
    NonFiniteError,
    bad_gradient,
    bad_input,
    origin_of_nan,
    plain,
)
from pipelines.training.loop import Trainer

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("quick_collection")

BAD_STEP = 5
Event = tuple[int, Mapping[str, Any]]


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Drawn:
    pair: Pair
    step: int


class Spoiled:
    """Regression on a network with buffers and dropout, of which some steps are spoiled."""

    steps_per_epoch = 100

    def __init__(self, spoil: str | None, bad: tuple[int, ...] = (BAD_STEP,)) -> None:
        torch.manual_seed(3)
        self.network = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.SiLU(), nn.Linear(8, 1)
        )
        self.spoil, self.bad = spoil, bad

    def draw(self, step: int) -> Drawn:
        x = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(step))
        if self.spoil == "input" and step in self.bad:
            x[7, 2] = math.inf
        return Drawn(Pair(x, x.sum(dim=1, keepdim=True)), step)

    def losses(self, batch: Drawn, part: slice) -> Tensor:
        found: Tensor = self.network(batch.pair.x[part])
        losses = (found - batch.pair.y[part]).square().mean(dim=1)
        if batch.step not in self.bad or part.start == 0:
            return losses
        if self.spoil == "loss":
            return losses - math.inf
        # The root of zero is finite, its derivative is not, and zero times that is NaN.
        return losses + (0 * losses).sqrt() if self.spoil == "gradient" else losses

    def validate(self, network: nn.Module) -> float:
        return 0.0


def trainer(spoil: str | None, guard: Guard, bad: tuple[int, ...] = (BAD_STEP,)) -> Trainer:
    objective = Spoiled(spoil, bad)
    ask = config(ema=0.9, clip=1.0, max_skipped=1.0)
    return Trainer(objective.network, objective, ask, lambda *_: None, guard=guard)


def advanced(work: Trainer, steps: int) -> Trainer:
    torch.manual_seed(0)
    for _ in range(steps):
        work.step()
    return work


def state(work: Trainer) -> dict[str, Any]:
    return copy.deepcopy(work.state_dict())


@pytest.mark.parametrize(
    ("spoil", "part"), [("input", "input"), ("loss", "loss"), ("gradient", "gradient")]
)
def test_a_bad_step_changes_no_bit_and_is_told_and_kept(
    tmp_path: Path, spoil: str, part: str
) -> None:
    told: list[Event] = []
    guard = Guard(1.0, directory=tmp_path / "skipped", note=lambda *event: told.append(event))
    work = advanced(trainer(spoil, guard), BAD_STEP)
    before = state(work)
    work.step()
    after = state(work)
    for kept in ("network", "optimizer", "average"):  # the buffers of BatchNorm are in them
        assert equal(before[kept], after[kept])
    assert all(p.grad is None for p in work.network.parameters())
    ((step, event),) = told
    assert (step, event["event"], event["batch"]) == (BAD_STEP + 1, "skipped", "00000005.pt")
    assert event["not_finite"].split()[0] == part
    found = torch.load(tmp_path / "skipped" / "00000005.pt", weights_only=True)
    assert found["fault"]["part"] == part
    assert equal(found["network"], before["network"])
    assert equal(found["batch"], plain(Spoiled(spoil).draw(BAD_STEP)))


def test_a_kept_batch_can_be_taken_again(tmp_path: Path) -> None:
    advanced(trainer("gradient", Guard(1.0, directory=tmp_path)), BAD_STEP + 1)
    found = torch.load(tmp_path / "00000005.pt", weights_only=True)
    again = Spoiled("gradient")
    again.network.load_state_dict(found["network"])
    random_state.restore(found["random"])
    batch = Drawn(Pair(**found["batch"]["pair"]), found["batch"]["step"])
    for start in range(0, BATCH, 4):
        torch.autograd.backward(again.losses(batch, slice(start, start + 4)).sum())
    fault = bad_gradient(again.network)
    assert fault is not None
    assert list(fault.names) == list(found["fault"]["names"])


def test_a_gradient_whose_square_overflows_is_bad() -> None:
    network = nn.Linear(1, 1, bias=False)  # AdamW would keep infinity for it, and never move again
    network.weight.grad = torch.tensor([[1e25]])
    assert bad_gradient(network) == Fault("gradient", ("weight",))
    network.weight.grad = torch.tensor([[1e18]])
    assert bad_gradient(network) is None


def test_what_is_bad_is_named() -> None:
    batch = {"a": torch.ones(2), "b": [torch.tensor([1.0, math.nan]), torch.tensor(3)]}
    assert bad_input(batch) == Fault("input", ("b.0",))
    assert bad_input(torch.tensor(math.inf)) == Fault("input", ("batch",))
    assert bad_input(("words", 3, None, torch.ones(1))) is None


def test_the_origin_is_found_on_demand_and_changes_nothing() -> None:
    told: list[Event] = []
    traced = Guard(1.0, note=lambda *event: told.append(event), trace=True)
    work, twin = (
        advanced(trainer("gradient", guard), BAD_STEP + 3) for guard in (traced, Guard(1.0))
    )
    assert equal(state(work), state(twin))
    ((_, event),) = told
    assert "MulBackward0" in event["origin"]
    assert "in losses" in event["origin"]  # where it was multiplied


def test_generators_are_where_they_would_have_been() -> None:
    advanced(trainer("gradient", Guard(1.0, trace=True)), BAD_STEP + 1)
    traced = torch.rand(3)
    advanced(trainer("gradient", Guard(1.0)), BAD_STEP + 1)
    assert equal(traced, torch.rand(3))


def test_passes_without_a_nan_have_no_origin_and_other_errors_pass() -> None:
    x = torch.ones(2, requires_grad=True)
    assert origin_of_nan(lambda: torch.autograd.backward(x.sum())) == ""

    def fail() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        origin_of_nan(fail)


def test_the_first_bad_batches_are_kept_and_no_more(tmp_path: Path) -> None:
    advanced(trainer("loss", Guard(1.0, directory=tmp_path, keep=2), (1, 3, 4, 6)), 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001.pt", "00000003.pt"]


@given(
    thousandths=st.integers(0, 50),
    minimum=st.integers(1, 2000),
    bad=st.sets(st.integers(0, 5000), max_size=30),
)
def test_a_run_ends_with_the_first_skip_that_is_one_too_many(
    thousandths: int, minimum: int, bad: set[int]
) -> None:
    allowed = Fraction(thousandths, 1000)
    guard = Guard(thousandths / 1000, minimum)
    for skipped, step in enumerate(sorted(bad), start=1):
        if skipped > allowed * max(step + 1, minimum):
            with pytest.raises(NonFiniteError, match=rf"{skipped} of {step + 1} steps"):
                guard.skip(step, skipped, Fault("loss"), dict)
            return
        guard.skip(step, skipped, Fault("loss"), dict)
