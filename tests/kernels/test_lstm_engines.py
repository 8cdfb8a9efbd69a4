"""All engines that the planner calls equal are equal: outputs, attention and gradients."""

import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from support.lstm import HIDDEN, gradients, inputs, model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.lstm import Engine, LSTMSettings, Plan, Situation, compiled, obstacles, plan
from kernels.lstm.analytic import GateAttention, Norms, unroll_analytic
from kernels.lstm.compiled import unroll_compiled
from kernels.lstm.feedback import Feedback
from kernels.lstm.stepping import unroll_steps
from kernels.lstm.terms import Course, prepare

VARIANTS = (
    {"variant": "none"},
    {"variant": "concat"},
    {"variant": "film"},
    {"variant": "gate"},
    {"variant": "attention_input"},
    {"variant": "attention_film", "modulation": "additive"},
    {"variant": "attention_film", "modulation": "multiplicative"},
    {"variant": "attention_gate"},
    {"variant": "ea_lstm"},
)
NORMS: tuple[dict[str, Any], ...] = (
    {},
    {"layer_norm": True},
    {"layer_norm": True, "normalize_cell": False},
)


def _names(choices: dict[str, Any]) -> str:
    return "-".join(str(value) for value in choices.values()) or "plain"


def _equal_engines(made: Any, hears: Any) -> Iterator[Engine]:
    situation = Situation(made.settings, hears, False, "cpu")
    against = obstacles(situation)
    for engine in Engine:
        if engine not in against and plan(situation, engine).engine is not Engine.COMPILED:
            yield engine


@pytest.mark.parametrize("static", [1, 3])
@pytest.mark.parametrize("norms", NORMS, ids=_names)
@pytest.mark.parametrize("choices", VARIANTS, ids=_names)
def test_engines_agree_with_the_step_loop(
    choices: dict[str, Any], norms: dict[str, Any], static: int
) -> None:
    for hears, forcing in (("nothing", 0.0), ("teacher", 1.0), ("itself", 0.0), ("both", 0.5)):
        made = model(**choices, **norms, static=static, autoregressive=hears != "nothing")
        given, parameters = inputs(static), list(made.parameters())
        results = {
            engine: made(
                *given,
                teacher_forcing=forcing,
                generator=torch.Generator().manual_seed(1),
                engine=engine,
            )
            for engine in _equal_engines(made, hears)
        }
        expected = results.pop(Engine.STEPS)
        slopes = gradients(expected, parameters)
        for found in results.values():
            torch.testing.assert_close(found.outputs, expected.outputs, rtol=0, atol=1e-12)
            if expected.attention is not None:
                torch.testing.assert_close(found.attention, expected.attention, rtol=0, atol=1e-12)
            for a, b in zip(gradients(found, parameters), slopes, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("normed", "attends", "entity_aware"), list(product((False, True), repeat=3))
)
def test_the_backward_pass_by_hand_is_the_derivative(
    normed: bool, attends: bool, entity_aware: bool
) -> None:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    t, b, h, gates = 3, 2, 3, 9 if entity_aware else 12
    tensors = [draw(t, b, gates), draw(gates, h), draw(b, h), draw(b, h)]
    tensors += [draw(gates), draw(h), draw(h)] if normed else []
    tensors += [draw(2, h), draw(b, 4, 2), draw(b, 4, 3), draw(gates, 3)] if attends else []
    tensors += [draw(b, h)] if entity_aware else []

    def run(drive: Tensor, weight: Tensor, h: Tensor, c: Tensor, *rest: Tensor) -> Any:
        found = list(rest)
        norms = Norms(found.pop(0), (found.pop(0), found.pop(0))) if normed else None
        slots = GateAttention(*(found.pop(0) for _ in range(4))) if attends else None
        gate = found.pop(0).sigmoid() if entity_aware else None
        out = unroll_analytic(drive, weight, (h, c), norms=norms, attention=slots, input_gate=gate)
        return out.hidden, out.cell

    assert torch.autograd.gradcheck(run, tensors)


def test_a_drive_of_other_gates_or_type_is_refused() -> None:
    state = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="expected a drive of at least one step and 12 gate sums"):
        unroll_analytic(torch.zeros(4, 2, 9), torch.zeros(12, 3), state)
    with pytest.raises(ValueError, match=r"of one type, found .*there is no autocast"):
        unroll_analytic(torch.zeros(4, 2, 12).double(), torch.zeros(12, 3), state)


# The tracer asks every tensor for its gradient, and means to hide what that warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_chunks_agree_with_the_step_loop() -> None:
    """Seven steps: two chunks, and one step that is left. Without a code generator, to be quick."""
    made = model(variant="attention_film", layer_norm=True, autoregressive=True)
    given = inputs(context=1)
    x = torch.cat((given.context_x, given.future_known), dim=1).transpose(0, 1)
    statics = made.statics(given.static_x)
    terms = prepare(made.recurrence, made.recurrence.weights, Course(x, statics), feedback=True)
    observed = torch.cat((given.past_target, given.target), dim=1).transpose(0, 1)
    forced = torch.arange(7).reshape(7, 1, 1) % 3 == 0
    feedback = Feedback(made.head, observed[0], observed, forced)
    found = unroll_compiled(terms, statics.state, feedback, backend="eager")
    expected = unroll_steps(terms, statics.state, feedback)
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=0, atol=1e-12)
    parameters = list(made.recurrence.parameters())
    slopes = [
        torch.autograd.grad(
            run.hidden.square().sum(), parameters, retain_graph=True, materialize_grads=True
        )
        for run in (found, expected)
    ]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_longer_sequence_is_not_compiled_again() -> None:
    """A thousand steps cost as much to compile as twenty: chunks are unrolled, sequences not."""
    short, long = _graphs_after([(20, 2), (1024, 2)])
    assert short == long > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_dozen_batch_sizes_are_all_compiled() -> None:
    """torch gives up after eight graphs of a function, and then runs it uncompiled."""
    counts = _graphs_after([(6, batch) for batch in range(2, 14)])
    assert all(a < b for a, b in pairwise(counts))


def _graphs_after(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """How many graphs were compiled after a run of each (steps, batch)."""
    made, graphs, counts = model(variant="none", initial_state=False), [], []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for steps, batch in shapes:
        x = torch.randn(steps, batch, 3, dtype=torch.float64)
        statics = made.statics(torch.ones(batch, 3, dtype=torch.float64))
        terms = prepare(made.recurrence, made.recurrence.weights, Course(x, statics))
        with torch.no_grad():
            found = unroll_compiled(terms, statics.state, backend=backend)
        assert found.hidden.shape == (steps, batch, HIDDEN)
        counts.append(len(graphs))
    return counts


class _Written(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Counts the elements that operations make."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        views = func.is_view or func._schema.name.endswith("_")
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor) and not views:
                self.total += tensor.numel()
        return made


def test_a_graph_that_is_kept_can_go_back_twice() -> None:
    made = model(variant="attention_gate", layer_norm=True)
    prediction = made(*inputs(), engine=Engine.ANALYTIC)
    parameters = list(made.parameters())
    loss = prediction.outputs.square().sum()
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    kept = [slope.clone() for slope in first]
    second = torch.autograd.grad(loss, parameters)
    for slopes in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(kept, slopes, strict=True))


def test_the_record_is_freed_by_the_backward_pass() -> None:
    """A loss that is still referred to while the next one is computed holds no second record."""
    made = model(variant="attention_gate", layer_norm=True)
    loss = made(*inputs(), engine=Engine.ANALYTIC).outputs.sum()
    torch.autograd.backward(loss)
    with pytest.raises(RuntimeError, match="already been freed"):
        torch.autograd.backward(loss)


@pytest.mark.parametrize("engine", [Engine.STEPS, Engine.ANALYTIC])
def test_work_is_linear_in_the_number_of_steps(engine: Engine) -> None:
    """Rows taken by rows[t] would make every step's gradient as large as all rows."""
    made = model(variant="attention_gate", layer_norm=True)
    written = []
    for steps in (64, 128):
        x = torch.randn(2, steps, 3, dtype=torch.float64, requires_grad=True)
        with _Written() as count:  # type: ignore[no-untyped-call]  # as above
            out = made(x[:, :0], torch.ones(2, 3, dtype=torch.float64), x, engine=engine)
            torch.autograd.backward(out.outputs.sum())
        written.append(count.total)
    assert written[1] < 2.1 * written[0]


def _situation(hears: Any = "nothing", masked: bool = False, **choices: Any) -> Situation:
    return Situation(LSTMSettings(3, 3, 2, **choices), hears, masked, "cpu")


@pytest.mark.parametrize(
    ("situation", "engine", "folded"),
    [
        (_situation(variant="concat"), "fused", False),
        (_situation(variant="attention_gate"), "analytic", False),
        (_situation(variant="ea_lstm"), "analytic", False),
        (_situation(variant="concat", layer_norm=True), "analytic", False),
        (_situation(variant="attention_film"), "steps", False),
        (_situation(variant="attention_input", layer_norm=True), "steps", False),
        (_situation("itself", variant="film", autoregressive=True), "fused", True),
        (_situation("itself", variant="attention_gate", autoregressive=True), "analytic", True),
        (_situation("itself", masked=True, autoregressive=True), "steps", False),
        (_situation("itself", layer_norm=True, autoregressive=True), "steps", False),
        (_situation("both", autoregressive=True), "steps", False),
    ],
)
def test_the_fastest_equal_engine_is_planned(
    situation: Situation, engine: str, folded: bool
) -> None:
    chosen = plan(situation)
    assert (chosen.engine, chosen.folded) == (engine, folded)


@pytest.mark.parametrize(
    ("choices", "engine"),
    [
        ({"variant": "concat"}, "fused"),
        ({"variant": "attention_gate"}, "analytic"),
        ({"variant": "attention_film"}, "compiled"),
    ],
)
def test_a_fold_that_is_asked_for_is_had_for_every_variant(
    choices: dict[str, Any], engine: str
) -> None:
    situation = _situation("itself", **choices, autoregressive=True)
    assert plan(situation, Engine.FOLDED)[:2] == (engine, True)
    on_gpu = plan(situation._replace(device="cuda"), Engine.FOLDED)
    assert on_gpu[:2] == ("fused" if engine == "fused" else "compiled", True)


def test_a_gpu_gets_compiled_chunks_where_no_kernel_is_fused() -> None:
    situation = _situation(variant="attention_gate")
    assert plan(situation._replace(device="cuda")).engine is Engine.COMPILED
    assert plan(_situation()._replace(device="cuda")).engine is Engine.FUSED


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(
    ("choices", "folded"),
    [
        ({"variant": "attention_gate", "layer_norm": True}, False),
        ({"variant": "attention_gate"}, True),
        ({"variant": "attention_film"}, True),
    ],
)
def test_what_a_gpu_would_be_given_agrees_with_the_step_loop(
    monkeypatch: pytest.MonkeyPatch, choices: dict[str, Any], folded: bool
) -> None:
    """The plans for CUDA, run here; without a code generator, to be quick."""

    def plan_for_cuda(situation: Situation, wish: Engine | None = None) -> Plan:
        return plan(situation._replace(device="cuda"), wish)

    chunks = compiled._compiled
    monkeypatch.setattr("kernels.lstm.model.plan", plan_for_cuda)
    monkeypatch.setattr(compiled, "_compiled", lambda _: chunks("eager"))
    made = model(**choices, autoregressive=True)
    given, parameters = inputs(), list(made.parameters())
    found, expected = made(*given), made(*given, engine=Engine.STEPS)
    assert {chosen.engine for chosen in found.plans} == {Engine.COMPILED}
    assert [chosen.folded for chosen in found.plans] == [False, folded]
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=0, atol=1e-12)
    slopes = (gradients(each, parameters) for each in (found, expected))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_a_plan_says_why_and_logs_it_once(caplog: pytest.LogCaptureFixture) -> None:
    situation = _situation("both", autoregressive=True, hidden=11)
    with caplog.at_level(logging.INFO, logger="kernels.lstm"):
        chosen = plan(situation)
        plan(situation)
    assert "not fused: outputs are fed back, and the teacher is heard at some" in chosen.reason
    assert [chosen.reason in record.getMessage() for record in caplog.records] == [True]


def test_an_engine_that_is_not_equal_is_refused() -> None:
    made = model(variant="attention_gate")
    with pytest.raises(ValueError, match=r"engine fused: .*more than one slot.*analytic"):
        made(*inputs(), engine="fused")


def test_an_engine_that_is_equal_can_be_asked_for() -> None:
    made = model(variant="concat")
    assert made(*inputs(), engine="analytic").plans[0].engine is Engine.ANALYTIC
