r"""The recurrences that no fused kernel has, with the backward pass written by hand.

Automatic differentiation of a step loop records some twenty operations a step, each with memory
of its own. Here the forward pass keeps what the backward pass needs in a few arrays over all
steps, and every product that does not depend on the next step (gradients of weights, keys and
values) runs once over all steps. Only the products with the recurrent weights stay in the loops.
Nothing is compiled, so that the first call costs as much as the second.

.. math::
    z_t &= x_t + \mathrm{LN}(U h_{t-1}) + V a_t, \qquad
    a_t = \sum_s \mathrm{softmax}_s(k_s \cdot Q h_{t-1})\, v_s \\
    c_t &= \sigma(z^f_t) c_{t-1} + \sigma(z^i_t) \tanh(z^g_t), \qquad
    h_t = \sigma(z^o_t) \tanh(\mathrm{LN}(c_t))

Gates lie in torch's order i, f, g, o, or f, g, o where the input gate is static.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.lstm.passes import BackwardPass, Record, Tapes, forward_pass


class Unrolled(NamedTuple):
    """Hidden states (T, B, H), the last cell state (B, H), and attention (T, B, S) or nothing."""

    hidden: Tensor
    cell: Tensor
    attention: Tensor | None

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """h and c after the last step, (B, H) each."""
        return self.hidden[-1], self.cell


class GateAttention(NamedTuple):
    """Attention whose result enters the gates."""

    query: Tensor  # Q, (A, H)
    keys: Tensor  # (B, S, A)
    values: Tensor  # (B, S, E)
    weight: Tensor  # V, (G, E)


class Norms(NamedTuple):
    """Weights of layer normalization inside the recurrence."""

    recurrent: Tensor  # gain of the recurrent sum, (G)
    cell: tuple[Tensor, Tensor] | None  # gain and shift of the cell state, (H) each


def unroll_analytic(
    drive: Tensor,
    weight: Tensor,
    state: tuple[Tensor, Tensor],
    *,
    norms: Norms | None = None,
    attention: GateAttention | None = None,
    input_gate: Tensor | None = None,
    overwrite: bool = False,
) -> Unrolled:
    """All steps of the recurrence above; differentiable once.

    Args:
        drive: x, what enters the gates from outside, (T, B, G).
        weight: U, (G, H).
        state: h and c before the first step, each (B, H).
        norms: Layer normalization; none without.
        attention: Slots to attend to; none without.
        input_gate: A static input gate in (0, 1), (B, H); G is then 3 H, otherwise 4 H.
        overwrite: The drive's memory may be used, because nobody reads it afterwards.

    Raises:
        ValueError: There is no step, the number of gates does not fit the hidden size, or types
            differ.
    """
    expected = (4 if input_gate is None else 3) * weight.shape[1]
    if not len(drive) or drive.shape[-1] != expected:
        raise ValueError(
            f"expected a drive of at least one step and {expected} gate sums, "
            f"found {tuple(drive.shape)}"
        )
    if drive.dtype != weight.dtype:
        raise ValueError(
            f"expected drive and weights of one type, found {drive.dtype} and {weight.dtype}; "
            "there is no autocast here: turn it off, or ask for the step loop"
        )
    recurrent, cell = norms or (None, None)
    slots: Sequence[Tensor | None] = attention or (None,) * 4
    unroll: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Unroll.apply
    hidden, last, weights = unroll(
        overwrite, drive, weight, *state, input_gate, recurrent, *(cell or (None, None)), *slots
    )
    return Unrolled(hidden, last, weights)


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        overwrite: bool,
        drive: Tensor,
        weight: Tensor,
        h: Tensor,
        c: Tensor,
        input_gate: Tensor | None,
        *rest: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        room = drive.contiguous() if overwrite else drive.clone()
        tapes = Tapes.blank(len(drive), rest[:3], rest[3:])
        record = Record.blank(room, weight.shape[1], tapes.recurrent is not None)
        forward_pass(record, tapes, weight.T, h, c, input_gate)
        # Saved this way, all of it is freed by the backward pass, however long the loss lives.
        ctx.save_for_backward(*record, weight, h, c, input_gate)
        ctx.tapes = tapes
        weights = None if tapes.attention is None else tapes.attention.weights.clone()
        if weights is not None:
            ctx.mark_non_differentiable(weights)
        return record.hidden, record.cells[-1].clone(), weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_hidden: Tensor, d_last: Tensor, _: Any) -> Any:
        *saved, weight, h, c, input_gate = ctx.saved_tensors
        record, (recurrent, cell, attention) = Record(*saved), ctx.tapes
        back = BackwardPass(record, ctx.tapes, weight, c, input_gate)
        dh, dc = back.run(d_hidden, d_last.clone())
        before = _Before(h, record.hidden)
        return (
            None,
            back.sums,
            before.product(back.recurrent),
            dh,
            dc,
            back.input_gate,
            recurrent and recurrent.d_gain,
            cell and cell.d_gain,
            cell and cell.d_shift,
            *(attention.gradients(back.sums, before.product) if attention else (None,) * 4),
        )


class _Before(NamedTuple):
    """The hidden states before every step, without a copy of them."""

    first: Tensor
    rest: Tensor

    def product(self, rows: Tensor) -> Tensor:
        """Sum over steps and samples of the outer products of rows (T, B, G) with them, (G, H)."""
        result = rows[0].T @ self.first
        if len(rows) > 1:
            result.addmm_(rows[1:].flatten(0, 1).T, self.rest[:-1].flatten(0, 1))
        return result
