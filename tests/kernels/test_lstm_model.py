"""What the model hears and what it may not: forcing, causality, normalization, randomness."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from support.lstm import CONTEXT, STEPS, B, gradients, inputs, model
from torch import Tensor

from kernels.lstm import LSTMSettings, StaticDynamicLSTM, scheduled_ratio
from kernels.lstm.feedback import flip_coins

Steps = Callable[[Tensor], Tensor]


def _influence(respond: Steps, x: Tensor) -> Tensor:
    """Whether output step t depends on input step s, (T_out, T_in), of respond: (B, T, .)."""
    x = x.clone().requires_grad_()
    rows = []
    for output in respond(x).sum(dim=(0, 2)):
        (slope,) = torch.autograd.grad(output, x, retain_graph=True, materialize_grads=True)
        rows.append(slope.abs().sum(dim=(0, 2)) > 0)
    return torch.stack(rows)


def _heard(made: StaticDynamicLSTM, forcing: float) -> Tensor:
    given = inputs()

    def respond(target: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        prediction = made(
            *given._replace(target=target),
            teacher_forcing=forcing,
            coin="batch",
            generator=generator,
        )
        outputs: Tensor = prediction.outputs
        return outputs

    return _influence(respond, given.target)


NORMED = pytest.mark.parametrize("normed", [False, True])


@NORMED
def test_a_teacher_is_heard_one_step_late_and_never_before(normed: bool) -> None:
    made = model(autoregressive=True, layer_norm=normed)
    before = torch.ones(STEPS, STEPS, dtype=torch.bool).tril(-1)
    assert torch.equal(_heard(made, 1.0), before)
    assert not _heard(made, 0.0).any()
    assert not _heard(model(layer_norm=normed), 1.0).any()


def test_between_the_two_the_teacher_is_heard_where_the_coins_say() -> None:
    coins = flip_coins(STEPS, B, 0.5, "batch", torch.Generator().manual_seed(0)).flatten()
    last = _heard(model(autoregressive=True), 0.5)[-1]
    # What the target of step s is worth to the last step, it is worth by way of step s + 1.
    assert torch.equal(last[:-1], coins[1:])
    assert not last[-1]
    assert 0 < last.sum() < STEPS - 1


@NORMED
@pytest.mark.parametrize("autoregressive", [False, True])
def test_the_future_does_not_act_on_the_past(normed: bool, autoregressive: bool) -> None:
    made, given = model(layer_norm=normed, autoregressive=autoregressive, input_norm=True), inputs()

    def respond(future: Tensor) -> Tensor:
        outputs: Tensor = made(*given._replace(future_known=future)).outputs
        return outputs

    now_and_before = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
    assert torch.equal(_influence(respond, given.future_known), now_and_before)


@pytest.mark.parametrize("variant", ["concat", "attention_gate", "ea_lstm"])
def test_samples_do_not_act_on_each_other_in_eval(variant: Any) -> None:
    made = model(variant=variant, layer_norm=True, input_norm=True, static_norm=True)
    given, order = inputs(), torch.tensor([2, 0, 1])
    permuted = made(*(tensor[order] for tensor in given)).outputs
    alone = torch.cat([made(*(tensor[i : i + 1] for tensor in given)).outputs for i in range(B)])
    expected = made(*given).outputs
    torch.testing.assert_close(permuted, expected[order], rtol=0, atol=1e-13)
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-13)


def test_inputs_are_normalized_over_samples_and_steps_together() -> None:
    made, given = model(input_norm=True).train(), inputs()
    made(*given)
    x = torch.cat((given.context_x, given.future_known), dim=1).reshape(-1, 3)
    norm = made.input_norm
    assert norm is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var(0))


@pytest.mark.parametrize("coin", ["sample", "batch"])
@pytest.mark.parametrize("forcing", [0.0, 0.5, 1.0])
def test_a_run_that_is_resumed_draws_the_same(forcing: float, coin: str) -> None:
    """Nothing but the generator is drawn from, and its state is all there is to save."""
    made = model(autoregressive=True, dropout=0.3).train()

    def train(generator: torch.Generator) -> Tensor:
        prediction = made(*inputs(), teacher_forcing=forcing, coin=coin, generator=generator)
        outputs: Tensor = prediction.outputs
        return outputs

    generator = torch.Generator().manual_seed(5)
    train(generator)
    saved, elsewhere = generator.get_state(), torch.get_rng_state()
    expected = train(generator)
    assert torch.equal(torch.get_rng_state(), elsewhere)
    resumed = torch.Generator()
    resumed.set_state(saved)
    assert torch.equal(train(resumed), expected)
    assert not torch.equal(train(resumed), expected)


def test_dropout_hides_the_same_units_all_along_and_none_in_eval() -> None:
    made, given = model(dropout=0.5, outputs=1), inputs(outputs=1)
    torch.testing.assert_close(made(*given).outputs, model(outputs=1)(*given).outputs)
    made.train()
    made.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    seen: list[Tensor] = []
    made(*given, generator=torch.Generator().manual_seed(2))
    hidden = seen[0] == 0
    assert torch.equal(hidden, hidden[:1].expand_as(hidden))
    assert 0 < hidden.sum() < hidden.numel()


@settings(deadline=None)
@drawn(
    ratio=st.floats(0, 1),
    coin=st.sampled_from(["sample", "batch"]),
    seed=st.integers(0, 2**31),
)
def test_coins_are_the_batchs_or_the_samples(ratio: float, coin: Any, seed: int) -> None:
    coins = flip_coins(50, 40, ratio, coin, torch.Generator().manual_seed(seed))
    assert coins.shape == ((50, 40, 1) if coin == "sample" else (50, 1, 1))
    bound = 5 * 0.5 / coins.numel() ** 0.5 + 1e-9
    assert abs(float(coins.double().mean()) - ratio) <= bound


@pytest.mark.parametrize("decay", ["linear", "exponential", "inverse_sigmoid"])
def test_the_ratio_falls_from_the_teacher_to_the_free_run(decay: Any) -> None:
    ratios = [scheduled_ratio(step, 50.0, decay) for step in range(0, 100_000, 10)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 0.97
    assert ratios[-1] < 1e-9
    assert scheduled_ratio(50, 50.0, "exponential") == pytest.approx(2.718281828**-1)
    assert scheduled_ratio(25, 50.0, "linear") == 0.5
    assert scheduled_ratio(0, 50.0) == pytest.approx(50 / 51)


def test_every_parameter_counts() -> None:
    """What a variant does not use is not made."""
    for variant, normed in itertools.product(("none", "film", "attention_film", "ea_lstm"), (0, 1)):
        made = model(variant=variant, layer_norm=bool(normed), initial_state=variant != "none")
        slopes = gradients(made(*inputs()), made.parameters())
        assert all(slope.abs().sum() > 0 for slope in slopes), variant


@pytest.mark.parametrize("variant", ["concat", "ea_lstm"])
def test_memory_starts_open_or_as_long_as_is_asked(variant: Any) -> None:
    sizes: dict[str, Any] = {"dynamic": 3, "static": 3, "outputs": 2, "variant": variant}
    plain, chrono = (
        StaticDynamicLSTM(LSTMSettings(**sizes, hidden=512, longest=longest)).recurrence
        for longest in (0, 1000)
    )
    *_, f, _, _ = torch.split(plain.bias.detach(), 512)
    assert torch.equal(f, torch.ones(512))
    *i, f, _, _ = torch.split(chrono.bias.detach(), 512)
    assert f.min() >= 0
    assert 900 < f.max().exp() < 999.1
    assert all(torch.equal(gate, -f) for gate in i)


def test_without_context_a_model_that_hears_nothing_still_predicts() -> None:
    prediction = model()(*inputs(context=0))
    assert prediction.outputs.shape == (B, STEPS, 2)
    assert prediction.attention is None
    assert model(variant="attention_gate")(*inputs()).attention.shape == (B, CONTEXT + STEPS, 3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"static_x": torch.ones(B, 9)}, r"static_x: expected shape \(3, 3\), found \(3, 9\)"),
        ({"target": torch.ones(B, 2, 2)}, r"target: expected shape \(3, 6, 2\)"),
        ({"past_target": None}, "past_target: an autoregressive model needs .* no targets"),
        ({"target": None}, "target: expected for teacher_forcing=0.5, found none"),
        ({"generator": None}, "generator: expected one for the coins"),
        ({"teacher_forcing": 1.5}, "teacher_forcing: expected 0 to 1, found 1.5"),
        ({"future_known": torch.ones(B, 0, 3), "target": None}, "at least one step to predict"),
        ({"engine": "cudnn"}, "'cudnn' is not a valid Engine"),
    ],
)
def test_a_wrong_call_is_explained(change: dict[str, Any], complaint: str) -> None:
    made = model(autoregressive=True)
    options = {"teacher_forcing": 0.5, "generator": torch.Generator()}
    with pytest.raises(ValueError, match=complaint):
        made(**inputs()._asdict() | options | change)


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"variant": "transformer"}, "variant: expected one of .*ea_lstm.*found transformer"),
        ({"hidden": 0}, "hidden: expected at least 1, found 0"),
        ({"static": 0}, "variant concat .* needs static features"),
        ({"longest": 2}, "longest: expected 0 or more than 2 steps, found 2"),
        ({"dropout": 1.0}, "dropout: expected 0 <= p < 1, found 1.0"),
        ({"head": "carbon"}, "the carbon head has 4 outputs"),
    ],
)
def test_impossible_settings_are_refused(choices: dict[str, Any], complaint: str) -> None:
    sizes: dict[str, Any] = {"dynamic": 3, "static": 3, "outputs": 2}
    with pytest.raises(ValueError, match=complaint):
        LSTMSettings(**sizes | choices)
