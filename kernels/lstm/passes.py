"""The forward and the backward pass of :mod:`kernels.lstm.analytic`, step by step.

Hyperbolic tangents are 2 sigmoid(2 x) - 1: a third of the time at the same absolute error. Views
of the steps are made before the loops, where they would cost as much as the arithmetic.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from kernels.lstm.tape import AttentionTape, NormTape

Gates = tuple[Tensor, ...]


class Record(NamedTuple):
    """What the forward pass leaves for the backward pass, over all steps."""

    sigmoids: Tensor  # (T, B, G): first the drive, then the gates; sigmoid(2 z) for the candidate
    candidates: Tensor  # (T, B, H)
    cells: Tensor  # (T, B, H)
    squashed: Tensor  # (T, B, H): tanh of the (normalized) cell state
    hidden: Tensor  # (T, B, H)
    recurrent: Tensor | None  # (T, B, G): the recurrent sums, where they are normalized

    @classmethod
    def blank(cls, drive: Tensor, size: int, normed: bool) -> Self:
        """Room for all steps, the drive's own memory included."""
        shape = (*drive.shape[:2], size)
        candidates, cells, squashed, hidden = (drive.new_empty(shape) for _ in range(4))
        recurrent = torch.empty_like(drive) if normed else None
        return cls(drive, candidates, cells, squashed, hidden, recurrent)

    def by_gate(self, rows: Tensor) -> list[Gates]:
        """Rows (T, B, G) as one tuple (i, f, g, o) or (f, g, o) of (B, H) a step."""
        gates = torch.split(rows, self.cells.shape[-1], dim=-1)
        return list(zip(*(gate.unbind(0) for gate in gates), strict=True))


class Tapes(NamedTuple):
    """The parts that a recurrence may have."""

    recurrent: NormTape | None
    cell: NormTape | None
    attention: AttentionTape | None

    @classmethod
    def blank(cls, steps: int, norms: Sequence[Tensor | None], slots: Sequence[Any]) -> Self:
        """Tapes of what is there: gains and shift, and query, keys, values, weight."""
        gain, cell_gain, cell_shift = norms
        return cls(
            None if gain is None else NormTape(gain, None),
            None if cell_gain is None else NormTape(cell_gain, cell_shift),
            None if slots[0] is None else AttentionTape(steps, *slots),
        )


def forward_pass(
    record: Record,
    tapes: Tapes,
    weight: Tensor,
    h: Tensor,
    c: Tensor,
    input_gate: Tensor | None,
) -> None:
    """Run all steps from h and c, (B, H), with the recurrent weights (H, G)."""
    minus_one = -torch.ones_like(h)
    rows = zip(
        record.sigmoids.unbind(0),
        record.by_gate(record.sigmoids),
        record.candidates.unbind(0),
        record.cells.unbind(0),
        record.squashed.unbind(0),
        record.hidden.unbind(0),
        strict=True,
    )
    for t, (z, (*i, f, g, o), candidate, cell, squashed, hidden) in enumerate(rows):
        if record.recurrent is None or tapes.recurrent is None:
            z.addmm_(h, weight)
        else:
            z += tapes.recurrent.forward(torch.mm(h, weight, out=record.recurrent[t]))
        if tapes.attention is not None:
            tapes.attention.forward(t, h, z)
        g += g  # a factor of 2 would be a tensor to make, at every step
        z.sigmoid_()
        torch.add(minus_one, g, alpha=2, out=candidate)
        torch.mul(i[0] if input_gate is None else input_gate, candidate, out=cell)
        cell.addcmul_(f, c)
        normal = cell if tapes.cell is None else tapes.cell.forward(cell)
        torch.add(normal, normal, out=squashed).sigmoid_()
        torch.add(minus_one, squashed, alpha=2, out=squashed)
        torch.mul(o, squashed, out=hidden)
        h, c = hidden, cell


class BackwardPass:
    """Gradients, from the last step to the first.

    Attributes:
        sums: Gradient of the gate sums, (T, B, G).
        recurrent: That of their recurrent part before its normalization.
        input_gate: That of a static input gate.
    """

    def __init__(
        self, record: Record, tapes: Tapes, weight: Tensor, c: Tensor, input_gate: Tensor | None
    ) -> None:
        self.record, self.tapes = record, tapes
        self.weight, self.static_gate = weight, input_gate
        self.before = (c, *record.cells.unbind(0)[:-1])
        self.sums = torch.empty_like(record.sigmoids)
        self.recurrent = self.sums if tapes.recurrent is None else torch.empty_like(self.sums)
        self.input_gate = None if input_gate is None else torch.zeros_like(input_gate)
        self._slope, self._through = torch.empty_like(self.sums[0]), torch.empty_like(c)
        self._four = c.new_tensor(4.0)

    def run(self, d_hidden: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the first state from those of all hidden states and the last cell state."""
        record, tapes, dh = self.record, self.tapes, torch.zeros_like(dc)
        for norm in (tapes.recurrent, tapes.cell):
            if norm is not None:
                norm.begin()
        rows = zip(
            self.sums.unbind(0),
            self.recurrent.unbind(0),
            record.by_gate(self.sums),
            record.by_gate(record.sigmoids),
            record.sigmoids.unbind(0),
            d_hidden.unbind(0),
            strict=True,
        )
        for t, (dz, dr, d_gates, gates, s, outside) in reversed(list(enumerate(rows))):
            dh += outside
            self._through_cell(t, dh, dc, d_gates, gates)
            # The slope of a sigmoid s is s - s^2; that of the candidate is four times as much.
            dz *= torch.addcmul(s, s, s, value=-1, out=self._slope)
            if record.recurrent is not None and tapes.recurrent is not None:
                dr.copy_(tapes.recurrent.backward(t, record.recurrent[t], dz))
            torch.mm(dr, self.weight, out=dh)
            if tapes.attention is not None:
                tapes.attention.backward(t, dz, dh)
        return dh, dc

    def _through_cell(self, t: int, dh: Tensor, dc: Tensor, d_gates: Gates, gates: Gates) -> None:
        """Gradients of the gates of step t; dc becomes that of the cell state before it."""
        (*di, df, dg, do), (*i, f, _, o) = d_gates, gates
        squashed, candidate = self.record.squashed[t], self.record.candidates[t]
        torch.mul(dh, squashed, out=do)
        through = torch.addcmul(o, self.record.hidden[t], squashed, value=-1, out=self._through)
        if self.tapes.cell is None:
            dc.addcmul_(dh, through)
        else:
            dc += self.tapes.cell.backward(t, self.record.cells[t], through.mul_(dh))
        if self.input_gate is None or self.static_gate is None:
            torch.mul(dc, candidate, out=di[0])
            torch.mul(dc, i[0], out=dg)
        else:
            self.input_gate.addcmul_(dc, candidate)
            torch.mul(dc, self.static_gate, out=dg)
        dg *= self._four
        torch.mul(dc, self.before[t], out=df)
        dc *= f
