"""Laws of the training loop: what a step is, and that no mishap changes it."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.regression import BATCH, RICH, STEPS_PER_EPOCH, Regression, Run, config, network
from support.small_work import equal
from torch import Tensor

from cluster.memory.undoing import BufferCopy
from pipelines.training.loop import NonFiniteError, Trainer
from pipelines.training.settings import learning_rate

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("quick_collection")


def test_a_run_is_a_plain_loop_bit_for_bit() -> None:
    run = Run(config(grain=BATCH)).go()
    net = network()
    objective = Regression(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / 5)
    for step in range(20):
        optimizer.zero_grad()
        x, y = objective.draw(step)
        (net(x) - y).square().mean().backward()
        optimizer.step()
        if step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1 and step < 19:
            scheduler.step()
    assert equal(run.trainer.network.state_dict(), net.state_dict())
    assert equal(run.trainer.optimizer.state_dict()["state"], optimizer.state_dict()["state"])
    assert run.rows[-1][1]["learning_rate"] == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(("microbatch", "grain"), [(12, 1), (12, 5), (6, 3), (4, 4), (10, 5)])
def test_the_gradient_over_grains_is_that_of_the_batch(microbatch: int, grain: int) -> None:
    net = network(torch.float64)
    objective = Regression(net)
    ask = config(microbatch=microbatch, grain=grain)
    trainer = Trainer(net, objective, ask, lambda *_: None)
    trainer._backward(objective.draw(0), BufferCopy(net))
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    x, y = objective.draw(0)
    wanted = torch.autograd.grad((net(x) - y).square().mean(), list(net.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("microbatch", [4, 8])
def test_the_microbatch_changes_no_bit(microbatch: int) -> None:
    assert equal(
        Run(config(microbatch=microbatch)).go().trainer.network.state_dict(),
        Run(config()).go().trainer.network.state_dict(),
    )


def spoil_two(step: int, losses: Tensor) -> Tensor:
    return losses * math.nan if step in (6, 9) else losses


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 20), max_size=3).map(sorted))
def test_a_run_cut_anywhere_ends_as_if_it_had_not_been(cuts: list[int]) -> None:
    whole = Run(config(**RICH), spoil_two).go()
    run, rows = Run(config(**RICH), spoil_two), []
    for cut in cuts:
        run.go(cut - run.trainer.steps_done)
        rows += run.rows
        state = run.state()
        run = Run(config(**RICH), spoil_two)
        run.trainer.load_state_dict(state)
    run.go()
    assert equal(run.state(), whole.state())
    assert rows + run.rows == whole.rows
    assert run.trainer.skipped == 2


class _FiniteWithBadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


BAD: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda losses: losses * math.nan,
    "infinite": lambda losses: losses + math.inf,
    "gradient": _FiniteWithBadGradient.apply,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_step_touches_nothing_and_is_counted(kind: str) -> None:
    run = Run(config(ema=0.9), lambda step, losses: BAD[kind](losses) if step == 5 else losses)
    before = run.go(5).state()
    after = run.go(1).state()
    for part in ("network", "optimizer", "average", "epoch_loss"):
        assert equal(before[part], after[part])
    assert (run.trainer.steps_done, run.trainer.skipped) == (6, 1)
    run.go()
    assert all(bool(p.isfinite().all()) for p in run.trainer.network.parameters())
    assert [row["skipped"] for _, row in run.rows] == [0, 1, 1, 1, 1]


def test_an_epoch_without_a_good_step_has_no_loss() -> None:
    run = Run(config(max_skipped=0.04), lambda step, x: x * math.nan if step < 4 else x).go()
    assert math.isnan(run.rows[0][1]["loss"])
    assert math.isfinite(run.rows[1][1]["loss"])


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_too_many_bad_steps_end_the_run(allowed: int) -> None:
    run = Run(config(max_skipped=allowed / 100), lambda step, losses: BAD["nan"](losses))
    with pytest.raises(NonFiniteError, match=rf"{allowed + 1} of {allowed + 1} steps .*clip"):
        run.go()
    assert equal(run.trainer.network.state_dict(), network().state_dict())


def test_the_share_of_bad_steps_counts_beyond_the_first_hundred() -> None:
    bad = (0, 150, 250)  # 1 of 100, 2 of 200 and 3 of 300 may be
    run = Run(config(epochs=75), lambda step, x: x * math.nan if step in bad else x)
    with pytest.raises(NonFiniteError, match="2 of 151 steps"):
        run.go()


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    free, clipped = Run(config()), Run(config(clip=0.01))
    for run in (free, clipped):
        run.go(1)
    a, b = (
        torch.cat([torch.Tensor(p.grad).flatten() for p in run.trainer.network.parameters()])
        for run in (free, clipped)
    )
    assert float(a.norm()) > 0.01
    assert float(b.norm()) == pytest.approx(0.01, rel=1e-4)
    assert float(torch.cosine_similarity(a, b, dim=0)) == pytest.approx(1, abs=1e-6)


def test_the_average_has_its_closed_form() -> None:
    run, decay, past = Run(config(ema=0.7)), 0.7, []
    past.append(copy.deepcopy(run.trainer.network.state_dict()))
    for _ in range(9):
        run.go(1)
        past.append(copy.deepcopy(run.trainer.network.state_dict()))
    n = len(past) - 1
    for name, found in run.trainer.final_network.state_dict().items():
        wanted = decay**n * past[0][name].double() + sum(
            (1 - decay) * decay ** (n - k) * past[k][name].double() for k in range(1, n + 1)
        )
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in run.trainer.final_network.parameters())


def test_without_an_average_the_network_itself_is_used() -> None:
    run = Run(config())
    assert run.trainer.final_network is run.trainer.network


@pytest.mark.parametrize(
    ("found", "patience", "epochs"),
    [
        ([3, 2, 2, 2, 1, 0, 0, 0], 2, 4),
        ([3, 4, 1, 1, 1], 1, 2),
        ([3, 2, math.nan, 1, math.nan, math.nan], 2, 6),
        ([5, 4, 3, 2, 1, 0, 0], 3, 7),
    ],
)
def test_training_stops_after_as_many_validations_without_a_best(
    found: list[float], patience: int, epochs: int
) -> None:
    run = Run(config(epochs=len(found), patience=patience), validations=iter(found)).go()
    assert run.trainer.steps_done == run.trainer.steps_total == epochs * STEPS_PER_EPOCH
    assert run.trainer.stopped == (run.trainer.stale >= patience)
    assert run.trainer.best == min(value for value in found[:epochs] if not math.isnan(value))


def test_a_stop_survives_a_resume() -> None:
    run = Run(config(patience=1), validations=iter([1.0, 2.0])).go()
    again = Run(config(patience=1))
    again.trainer.load_state_dict(run.state())
    assert again.trainer.steps_total == again.trainer.steps_done == 2 * STEPS_PER_EPOCH
    assert again.go().rows == []


def test_validation_comes_as_often_as_asked_and_at_the_end() -> None:
    run = Run(config(validate_every=2)).go()
    assert [step for step, row in run.rows if "validation" in row] == [8, 16, 20]
    assert [row["epoch"] for _, row in run.rows] == [1, 2, 3, 4, 5]


@given(epochs=st.integers(1, 5000), data=st.data())
def test_schedules_have_their_closed_forms(epochs: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, epochs - 1))
    asks = {name: config(epochs=epochs, schedule=name) for name in ("linear", "cosine", "constant")}
    rate = {name: learning_rate(ask, epoch) / 1e-2 for name, ask in asks.items()}
    assert rate["constant"] == 1
    assert rate["linear"] == pytest.approx((epochs - epoch) / epochs, abs=1e-12)
    assert rate["cosine"] == pytest.approx(math.cos(math.pi * epoch / (2 * epochs)) ** 2, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(when=st.integers(0, 19), grain=st.integers(0, 2), backward=st.booleans())
def test_a_shortage_of_memory_changes_no_bit(when: int, grain: int, backward: bool) -> None:
    passes = 0

    def refuse(_: Any = None) -> None:
        nonlocal passes
        passes += 1
        if passes == 3 * when + grain + 1:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    def spoil(step: int, losses: Tensor) -> Tensor:
        if backward:
            losses.register_hook(refuse)  # type: ignore[no-untyped-call]  # torch ships it untyped
        else:
            refuse()
        return losses

    run, twin = Run(config(**RICH), spoil).go(), Run(config(**RICH)).go()
    assert run.trainer.accumulator.healed == 1
    assert run.trainer.accumulator.microbatch == 4
    found, wanted = run.state(), twin.state()
    assert equal(found | {"accumulator": 0}, wanted | {"accumulator": 0})
    assert run.rows == twin.rows


@pytest.mark.parametrize(("limit", "microbatch"), [(12, 12), (11, 8), (8, 8), (6, 4), (4, 4)])
def test_a_limit_after_a_kill_for_memory_changes_no_bit(limit: int, microbatch: int) -> None:
    before = Run(config(**RICH)).go(7)
    run, twin = Run(config(**RICH)), Run(config(**RICH)).go()
    # The limit comes after the checkpoint, which knows a larger microbatch.
    run.trainer.load_state_dict(before.state())
    run.trainer.limit_microbatch(limit)
    assert run.trainer.microbatch == microbatch
    run.go()
    assert equal(run.state() | {"accumulator": 0}, twin.state() | {"accumulator": 0})
    assert [*before.rows, *run.rows] == twin.rows


def test_half_precision_is_in_the_passes_and_not_in_the_weights() -> None:
    seen: list[torch.dtype] = []
    run = Run(config(precision="bf16", ema=0.9))
    next(run.trainer.network.children()).register_forward_hook(
        lambda *hooked: seen.append(hooked[2].dtype)
    )
    run.go()
    assert set(seen) == {torch.bfloat16}
    kept = [*run.trainer.network.parameters(), *run.trainer.final_network.parameters()]
    kept += [s["exp_avg"] for s in run.trainer.optimizer.state.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    full = Run(config()).go()
    assert run.rows[-1][1]["loss"] == pytest.approx(full.rows[-1][1]["loss"], rel=0.05)
    assert run.rows[-1][1]["loss"] != full.rows[-1][1]["loss"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"grain": 8, "microbatch": 4},
        {"microbatch": 24},
        {"microbatch": 6, "grain": 4},
        {"epochs": 0},
        {"patience": 0},
        {"ema": 1.0},
        {"learning_rate": 0.0},
        {"clip": -1.0},
        {"max_skipped": 2.0},
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"found|greater|less"):
        config(**wrong)


def test_settings_need_no_torch() -> None:
    code = "import sys, pipelines.training.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
