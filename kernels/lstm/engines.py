"""The engines that run a recurrence, behind one call."""

import torch
from torch import Tensor

from kernels.lstm.analytic import GateAttention, Unrolled, unroll_analytic
from kernels.lstm.compiled import unroll_compiled
from kernels.lstm.feedback import Feedback
from kernels.lstm.heads import LinearHead
from kernels.lstm.planner import Engine, Plan
from kernels.lstm.recurrence import Recurrence, Weights
from kernels.lstm.stepping import State, unroll_steps
from kernels.lstm.terms import Course, Terms, prepare


def run(
    recurrence: Recurrence,
    course: Course,
    state: State,
    plan: Plan,
    feedback: Feedback | None = None,
) -> Unrolled:
    """Run a course from a state.

    Args:
        recurrence: The weights.
        course: What enters; nothing fed back if there is a feedback.
        state: h and c before the first step, (B, H) each.
        plan: From :func:`kernels.lstm.planner.plan`.
        feedback: How outputs are fed back while it runs.
    """
    weights = recurrence.weights
    if plan.folded and feedback is not None:
        weights, course = _fold(weights, course, state, feedback)
        feedback = None
    if plan.engine is Engine.FUSED:
        return _run_fused(recurrence, weights, course, state)
    simplify = plan.engine is not Engine.STEPS  # which is the reference for the others
    terms = prepare(recurrence, weights, course, feedback=feedback is not None, simplify=simplify)
    if plan.engine is Engine.ANALYTIC:
        return _with_single_slot(_run_analytic(terms, state), course)
    if plan.engine is Engine.COMPILED:
        return _with_single_slot(unroll_compiled(terms, state, feedback), course)
    return unroll_steps(terms, state, feedback)


def _fold(
    weights: Weights, course: Course, state: State, feedback: Feedback
) -> tuple[Weights, Course]:
    """Weights with the head inside; the first step still hears what it is told."""
    head = feedback.head
    if not isinstance(head, LinearHead):
        raise TypeError(f"only a linear head can be folded, found {type(head).__name__}")
    correction = (feedback.first - head(state[0])).unsqueeze(0)
    rest = correction.new_zeros(len(course.x) - 1, *correction.shape[1:])
    fed = torch.cat((correction, rest))
    return weights.folded(head.weight, head.bias), course._replace(fed=fed)


def _run_fused(recurrence: Recurrence, weights: Weights, course: Course, state: State) -> Unrolled:
    """torch's kernel, on inputs that hold all that is added to the gates."""
    constant = recurrence.constant(course.statics, recurrence.attention(course.statics))
    columns = [(weights.x, recurrence.modulated(course.x, constant))]
    if course.fed is not None and weights.fed is not None:
        columns.append((weights.fed, course.fed))
    if recurrence.weight_static is not None and constant is not None:
        everywhere = constant.expand(len(course.x), -1, -1)
        columns.append((recurrence.weight_static, everywhere))
    inputs = torch.cat([values for _, values in columns], dim=-1)
    matrix = torch.cat([weight for weight, _ in columns], dim=-1)
    parameters = [matrix, weights.h, weights.bias, torch.zeros_like(weights.bias)]
    first = [part.unsqueeze(0) for part in state]
    hidden, _, c = torch.lstm(inputs, first, parameters, True, 1, 0.0, True, False, False)
    return _with_single_slot(Unrolled(hidden, c[0], None), course)


def _run_analytic(terms: Terms, state: State) -> Unrolled:
    slots, weight = terms.attention, terms.weight_context
    return unroll_analytic(
        terms.rows,
        terms.weights.h,
        state,
        norms=terms.norms,
        attention=None if slots is None or weight is None else GateAttention(*slots, weight),
        input_gate=terms.input_gate,
        overwrite=True,
    )


def _with_single_slot(unrolled: Unrolled, course: Course) -> Unrolled:
    """An attention that was simplified away had a weight of one all the time."""
    slots = course.statics.slots
    if slots is None or slots.shape[1] > 1:
        return unrolled
    weights: Tensor = slots.new_ones(len(unrolled.hidden), len(slots), 1)
    return unrolled._replace(attention=weights)
