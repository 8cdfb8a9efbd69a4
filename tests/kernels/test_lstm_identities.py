"""What the variants are to each other and to torch's own LSTM, in float64."""

from typing import Any

import pytest
import torch
from support.lstm import CONTEXT, HIDDEN, OUTPUTS, STEPS, B, gradients, inputs, model
from torch import Tensor, nn

from kernels.lstm import StaticDynamicLSTM


def _copy(lstm: nn.LSTM, *columns: Tensor, source: StaticDynamicLSTM) -> None:
    """Give torch's LSTM the recurrence's weights, with more input columns."""
    part = source.recurrence
    with torch.no_grad():
        lstm.get_parameter("weight_ih_l0").copy_(torch.cat((part.weight_x, *columns), dim=1))
        lstm.get_parameter("weight_hh_l0").copy_(part.weight_h)
        lstm.get_parameter("bias_ih_l0").copy_(part.bias)
        lstm.get_parameter("bias_hh_l0").zero_()


def _reference(made: StaticDynamicLSTM, x: Tensor, lstm: nn.LSTM, static_x: Tensor) -> Tensor:
    """Outputs of torch's LSTM over context and prediction, with the model's state and head."""
    state = made.statics(static_x).state
    hidden, _ = lstm(x, tuple(part.unsqueeze(0) for part in state))
    outputs: Tensor = made.head(hidden[:, CONTEXT:])
    return outputs


def _close(found: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("variant", ["none", "gate", "film"])
def test_without_injection_it_is_torchs_lstm(variant: Any) -> None:
    made, given = model(variant=variant), inputs()
    if made.recurrence.weight_static is not None:
        nn.init.zeros_(made.recurrence.weight_static)
    if made.recurrence.modulation is not None:
        nn.init.zeros_(made.recurrence.modulation)
    lstm = nn.LSTM(3, HIDDEN, batch_first=True).double()
    _copy(lstm, source=made)
    x = torch.cat((given.context_x, given.future_known), dim=1)
    expected = _reference(made, x, lstm, given.static_x)
    _close(made(*given).outputs, expected)


@pytest.mark.parametrize("variant", ["gate", "concat"])
def test_gate_injection_is_concatenation(variant: Any) -> None:
    """[W | V] [x; s] = W x + V s, and so are the gradients of W, V and the static network."""
    made, given = model(variant=variant, initial_state=False), inputs()
    injected = made.recurrence.weight_static
    assert injected is not None
    lstm = nn.LSTM(3 + injected.shape[1], HIDDEN, batch_first=True).double()
    _copy(lstm, injected, source=made)
    x = torch.cat((given.context_x, given.future_known), dim=1)
    statics = made.statics(given.static_x).embedding
    joined = torch.cat((x, statics.unsqueeze(1).expand(-1, x.shape[1], -1)), dim=-1)
    expected = _reference(made, joined, lstm, given.static_x)
    found = made(*given, engine="analytic")
    _close(found.outputs, expected)
    ours = gradients(found, [made.recurrence.weight_x, injected, *made.statics.parameters()])
    theirs = gradients(
        found._replace(outputs=expected),
        [lstm.get_parameter("weight_ih_l0"), *made.statics.parameters()],
    )
    _close(torch.cat(ours[:2], dim=1), theirs[0], atol=1e-10)
    for a, b in zip(ours[2:], theirs[1:], strict=True):
        _close(a, b, atol=1e-10)


def test_film_scales_and_shifts_what_enters() -> None:
    made, given = model(variant="film"), inputs()
    x = torch.cat((given.context_x, given.future_known), dim=1)
    change = made.statics(given.static_x).embedding @ made.recurrence.get_parameter("modulation").T
    gamma, beta = (1 + change[:, :3]).unsqueeze(1), change[:, 3:].unsqueeze(1)
    lstm = nn.LSTM(3, HIDDEN, batch_first=True).double()
    _copy(lstm, source=made)
    _close(made(*given).outputs, _reference(made, gamma * x + beta, lstm, given.static_x))


def _adopt(made: StaticDynamicLSTM, source: StaticDynamicLSTM, **changed: Tensor) -> None:
    """Take all weights of a source that the model has, and those that are named."""
    own = made.state_dict()
    taken = {name: value for name, value in source.state_dict().items() if name in own}
    made.load_state_dict(own | taken | changed)


def test_attention_to_one_slot_is_gate_injection() -> None:
    attends, given = model(variant="attention_gate", static=1), inputs(static=1)
    made = model(variant="gate", static=1)
    _adopt(made, attends)
    slots = attends.statics(given.static_x).slots
    projected = slots[:, 0] @ attends.recurrence.get_parameter("value").T
    made.get_submodule("statics.to_embedding").register_forward_hook(lambda *_: projected)
    _close(made(*given).outputs, attends(*given, engine="steps").outputs)


@pytest.mark.parametrize("engine", ["steps", "analytic"])
def test_attention_into_inputs_is_attention_into_gates(engine: str) -> None:
    """Types A and C are one network: the columns of the input weights are V."""
    gates, joins = model(variant="attention_gate"), model(variant="attention_input")
    _adopt(joins, gates)
    found, expected = joins(*inputs(), engine=engine), gates(*inputs(), engine="steps")
    _close(found.outputs, expected.outputs)
    for a, b in zip(
        gradients(found, joins.parameters()), gradients(expected, gates.parameters()), strict=True
    ):
        _close(a, b, atol=1e-10)


def test_additive_modulation_is_attention_into_gates() -> None:
    """Type B with x + P a is type C with V = W P."""
    shifts = model(variant="attention_film", modulation="additive")
    gates = model(variant="attention_gate")
    part = shifts.recurrence
    injected = part.weight_x @ part.get_parameter("modulation")
    _adopt(gates, shifts, **{"recurrence.weight_static": injected.detach()})
    _close(shifts(*inputs(), engine="steps").outputs, gates(*inputs()).outputs)


def test_layer_normalization_tells_inputs_from_gates() -> None:
    """Where the sums are normalized apart, it matters on which side something joins."""
    joins, gates = (model(variant=v, layer_norm=True) for v in ("concat", "gate"))
    _adopt(gates, joins)
    difference = joins(*inputs()).outputs - gates(*inputs()).outputs
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize("variant", ["attention_input", "attention_film", "attention_gate"])
def test_the_order_of_the_slots_does_not_matter(variant: Any) -> None:
    made, given = model(variant=variant, initial_state=False), inputs()
    expected = made(*given)
    order = torch.tensor([2, 0, 1])
    slots = made.statics.to_slots
    assert slots is not None
    with torch.no_grad():
        slots.direction.copy_(slots.direction[order])
        slots.place.copy_(slots.place[order])
    found = made(*given._replace(static_x=given.static_x[:, order]))
    _close(found.outputs, expected.outputs)
    _close(found.attention, expected.attention[..., order])
    _close(found.attention.sum(-1), torch.ones(B, CONTEXT + STEPS, dtype=torch.float64))


@pytest.mark.parametrize("normalize_cell", [True, False])
def test_layer_norm_lstm_is_a_loop_over_nn_layer_norm(normalize_cell: bool) -> None:
    made = model(variant="none", layer_norm=True, normalize_cell=normalize_cell)
    given, part = inputs(), made.recurrence
    norms = [nn.LayerNorm(4 * HIDDEN, bias=False).double() for _ in range(2)]
    norms[0].weight = nn.Parameter(part.get_parameter("gain_x"))
    norms[1].weight = nn.Parameter(part.get_parameter("gain_h"))
    shown = part.get_submodule("cell_norm") if normalize_cell else nn.Identity()
    h, c = made.statics(given.static_x).state
    outputs = []
    for x in torch.cat((given.context_x, given.future_known), dim=1).unbind(1):
        sums = norms[0](x @ part.weight_x.T) + norms[1](h @ part.weight_h.T) + part.bias
        i, f, g, o = sums.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * shown(c).tanh()
        outputs.append(made.head(h))
    _close(made(*given).outputs, torch.stack(outputs[CONTEXT:], dim=1), atol=1e-11)


def test_entity_aware_lstm_is_the_published_one() -> None:
    """Kratzert et al. 2019, equations 9 to 14."""
    made, given = model(variant="ea_lstm"), inputs()
    part, statics = made.recurrence, made.statics(given.static_x)
    h, c = statics.state
    i = part.get_submodule("input_gate")(statics.embedding).sigmoid()
    outputs = []
    for x in torch.cat((given.context_x, given.future_known), dim=1).unbind(1):
        f, g, o = (x @ part.weight_x.T + h @ part.weight_h.T + part.bias).chunk(3, dim=1)
        c = f.sigmoid() * c + i * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(made.head(h))
    _close(made(*given).outputs, torch.stack(outputs[CONTEXT:], dim=1))


def test_a_free_run_is_one_lstm_with_the_head_folded_in() -> None:
    """After the first step, U' = U + W_y W_o and b' = b + W_y b_o, in torch's own LSTM."""
    made, given = model(variant="none", autoregressive=True), inputs()
    part, head = made.recurrence, made.head
    zeros = torch.zeros(B, 1, OUTPUTS, dtype=torch.float64)
    past = torch.cat((zeros, given.past_target[:, :-1]), dim=1)
    lstm = nn.LSTM(3 + OUTPUTS, HIDDEN, batch_first=True).double()
    _copy(lstm, part.get_parameter("weight_fed"), source=made)
    state = tuple(p.unsqueeze(0) for p in made.statics(given.static_x).state)
    _, state = lstm(torch.cat((given.context_x, past), dim=-1), state)
    first = torch.cat((given.future_known[:, :1], given.past_target[:, -1:]), dim=-1)
    hidden, state = lstm(first, state)
    folded = nn.LSTM(3, HIDDEN, batch_first=True).double()
    _copy(folded, source=made)
    with torch.no_grad():
        heard = part.get_parameter("weight_fed")
        folded.get_parameter("weight_hh_l0").add_(heard @ head.get_parameter("weight"))
        folded.get_parameter("bias_ih_l0").add_(heard @ head.get_parameter("bias"))
    rest, _ = folded(given.future_known[:, 1:], state)
    expected = head(torch.cat((hidden, rest), dim=1))
    _close(made(*given, engine="folded").outputs, expected)
    _close(made(*given, engine="steps").outputs, expected)
