"""The step loop in plain torch: every variant, any feedback, automatic differentiation."""

import torch
from torch import Tensor
from torch.nn import functional

from kernels.lstm.analytic import Unrolled
from kernels.lstm.feedback import Feedback
from kernels.lstm.recurrence import Attention, scale_and_shift
from kernels.lstm.tape import EPS
from kernels.lstm.terms import Terms, normalized

State = tuple[Tensor, Tensor]


def attend(attention: Attention, h: Tensor) -> tuple[Tensor, Tensor]:
    """Result (B, E) and weights (B, S) of the attention of h (B, H) to the slots."""
    query = functional.linear(h, attention.query)
    weights = torch.softmax((attention.keys @ query.unsqueeze(-1)).squeeze(-1), dim=-1)
    return (weights.unsqueeze(1) @ attention.values).squeeze(1), weights


def step(
    terms: Terms, row: Tensor, fed: Tensor | None, state: State
) -> tuple[State, Tensor | None]:
    """The state after one step, and where it attended.

    Args:
        terms: What every step reads.
        row: What enters at this one, (B, G) or (B, D).
        fed: The output of the step before, (B, D_out), unless the row holds it.
        state: h and c before it, (B, H) each.
    """
    h, c = state
    context, weights = None, None
    if terms.attention is not None:
        context, weights = attend(terms.attention, h)
    sums = _entering(terms, row, fed, context)
    recurrent = functional.linear(h, terms.weights.h)
    if terms.norms is not None:
        recurrent = normalized(recurrent, terms.norms.recurrent)
    sums = sums + recurrent
    if terms.weight_context is not None and context is not None and not terms.inside:
        sums = sums + functional.linear(context, terms.weight_context)
    return _update(terms, sums, c), weights


def _entering(terms: Terms, row: Tensor, fed: Tensor | None, context: Tensor | None) -> Tensor:
    """What enters the gates besides the recurrent part, (B, G)."""
    sums = row
    if terms.modulation is not None and context is not None:
        change = functional.linear(context, terms.modulation)
        sums = functional.linear(scale_and_shift(row, change), terms.weights.x)
    if fed is not None and terms.weights.fed is not None:
        sums = sums + functional.linear(fed, terms.weights.fed)
    if terms.weight_context is not None and context is not None and terms.inside:
        sums = sums + functional.linear(context, terms.weight_context)
    if terms.gain_x is not None:
        sums = normalized(sums, terms.gain_x)
    return sums if terms.offset is None else sums + terms.offset


def _update(terms: Terms, sums: Tensor, c: Tensor) -> State:
    """The state after the gates with these sums (B, G)."""
    if terms.input_gate is None:
        i, f, g, o = sums.chunk(4, dim=-1)
        gate = torch.sigmoid(i)
    else:
        f, g, o = sums.chunk(3, dim=-1)
        gate = terms.input_gate
    c = torch.sigmoid(f) * c + gate * torch.tanh(g)
    shown = c
    if terms.norms is not None and terms.norms.cell is not None:
        shown = functional.layer_norm(c, c.shape[-1:], *terms.norms.cell, EPS)
    return torch.sigmoid(o) * torch.tanh(shown), c


def unroll_steps(terms: Terms, state: State, feedback: Feedback | None = None) -> Unrolled:
    """All steps, one after another.

    Args:
        terms: What enters.
        state: h and c before the first step, (B, H) each.
        feedback: How outputs are fed back.
    """
    hidden, attention = [], []
    # Rows by unbind: the gradient of rows[t] would be as large as all rows, at every step.
    rows = terms.rows.unbind(0)
    known = [None] * len(rows) if terms.fed is None else terms.fed.unbind(0)
    for t, (row, fed) in enumerate(zip(rows, known, strict=True)):
        heard = fed if feedback is None else feedback.heard(t, state[0])
        state, weights = step(terms, row, heard, state)
        hidden.append(state[0])
        if weights is not None:
            attention.append(weights)
    return Unrolled(torch.stack(hidden), state[1], torch.stack(attention) if attention else None)
