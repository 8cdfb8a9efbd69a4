"""All that does not depend on the hidden state, computed for all steps before they run."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kernels.lstm.analytic import Norms
from kernels.lstm.recurrence import Attention, Recurrence, Weights
from kernels.lstm.statics import Statics
from kernels.lstm.tape import EPS


class Course(NamedTuple):
    """What enters the recurrence from outside.

    Attributes:
        x: Dynamic features, (T, B, D).
        statics: What the static features became.
        fed: Outputs of the step before, where all of them are known beforehand, (T, B, D_out).
    """

    x: Tensor
    statics: Statics
    fed: Tensor | None = None


class Terms(NamedTuple):
    """Rows that enter step by step, and what every step reads besides the state.

    Attributes:
        rows: Gate sums (T, B, G), or inputs (T, B, D) where ``modulation`` is still to act.
        fed: Known outputs of the step before that ``rows`` do not hold yet.
        weights: Of the gate sums.
        norms: Layer normalization inside the recurrence.
        attention: Slots, for a context at every step.
        weight_context: V, (G, E), of that context.
        inside: Whether it joins before the inputs' normalization.
        modulation: (2 D, E), of a context that scales and shifts the inputs.
        gain_x: Gain (G) of the inputs' normalization where that is still to be done,
        offset: and what is to be added after it, (G) or (B, G).
        input_gate: A static one, (B, H).
    """

    rows: Tensor
    fed: Tensor | None
    weights: Weights
    norms: Norms | None
    attention: Attention | None
    weight_context: Tensor | None
    inside: bool
    modulation: Tensor | None
    gain_x: Tensor | None
    offset: Tensor | None
    input_gate: Tensor | None


def prepare(
    recurrence: Recurrence,
    weights: Weights,
    course: Course,
    *,
    feedback: bool = False,
    simplify: bool = True,
) -> Terms:
    """The terms of a course.

    Args:
        recurrence: Its variant and the weights that folding does not change.
        weights: Its matrices, or folded ones.
        course: What enters.
        feedback: Outputs will be fed back step by step.
        simplify: Take an attention to a single slot for what it is: constant.
    """
    attention = recurrence.attention(course.statics)
    constant = None
    if attention is None or simplify:
        constant = recurrence.constant(course.statics, attention)
        attention = attention if constant is None else None
    modulation = recurrence.modulation if attention is not None and recurrence.scales else None
    joins = feedback or modulation is not None or (attention is not None and recurrence.inside)
    late = recurrence.gain_x is not None and joins
    before, after = _offsets(recurrence, weights, constant)
    if modulation is not None:
        rows = course.x
    else:
        rows = _gate_sums(recurrence, weights, course, constant, before, None if late else after)
    return Terms(
        rows,
        fed=None if modulation is None else course.fed,
        weights=weights,
        norms=recurrence.norms(),
        attention=attention,
        weight_context=None if attention is None else recurrence.context_weight(weights),
        inside=recurrence.inside,
        modulation=modulation,
        gain_x=recurrence.gain_x if late else None,
        offset=after if late or modulation is not None else None,
        input_gate=recurrence.static_gate(course.statics),
    )


def _offsets(
    recurrence: Recurrence, weights: Weights, constant: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """Constant gate sums before (B, G) and after (G) or (B, G) the inputs' normalization."""
    if recurrence.weight_static is None or constant is None:
        return None, weights.bias
    injected = functional.linear(constant, recurrence.weight_static)
    if recurrence.inside and recurrence.gain_x is not None:
        return injected, weights.bias
    return None, injected + weights.bias


def _gate_sums(
    recurrence: Recurrence,
    weights: Weights,
    course: Course,
    constant: Tensor | None,
    before: Tensor | None,
    after: Tensor | None,
) -> Tensor:
    """Gate sums (T, B, G) of the inputs; unless ``after`` is given, without normalization."""
    columns = [(weights.x, recurrence.modulated(course.x, constant))]
    if course.fed is not None and weights.fed is not None:
        columns.append((weights.fed, course.fed))
    # A bias goes into the operation before it: a pass over all rows costs as much as one.
    bias = after if after is not None and after.dim() == 1 else None
    normalizes = recurrence.gain_x is not None
    sums = project(columns, None if normalizes else bias)
    if before is not None:
        sums = sums + before
    if recurrence.gain_x is not None and after is not None:
        sums = normalized(sums, recurrence.gain_x, bias)
    return sums if after is None or bias is not None else sums + after


def project(columns: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None = None) -> Tensor:
    """Sum of weights (G, D) times inputs (T, B, D), in one product, and a bias (G): (T, B, G)."""
    x = torch.cat([inputs for _, inputs in columns], dim=-1)
    rows = x.flatten(0, 1)
    # With the weights in this layout their gradient is a wide product, not a tall one: the
    # latter is seven times as slow where D is small.
    weight = torch.cat([weight.T for weight, _ in columns]).contiguous()
    sums = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return sums.view(*x.shape[:2], -1)


def normalized(sums: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    """Layer normalization of gate sums (..., G), and a bias (G)."""
    return functional.layer_norm(sums, gain.shape, gain, bias, EPS)
