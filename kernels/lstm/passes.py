"""The forward and the backward pass of :mod:`kernels.lstm.analytic`, step by step.

Hyperbolic tangents are 2 sigmoid(2 x) - 1: a third of the time at the same absolute error. Views
of the steps are made before the loops, where they would cost as much as the arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from kernels.lstm.tape import AttentionTape, NormTape

Gates = tuple[Tensor, ...]


@dataclass
class Record:
    """What the forward pass leaves for the backward pass, over all steps."""

    sigmoids: Tensor  # (T, B, G): first the drive, then the gates; sigmoid(2 z) for the candidate
    candidates: Tensor  # (T, B, H)
    cells: Tensor  # (T, B, H)
    squashed: Tensor  # (T, B, H): tanh of the (normalized) cell state
    hidden: Tensor  # (T, B, H)
    recurrent: NormTape | None
    cell: NormTape | None
    attention: AttentionTape | None

    @classmethod
    def blank(
        cls, drive: Tensor, size: int, norms: Sequence[Tensor | None], slots: Sequence[Any]
    ) -> Self:
        """Room for all steps, in the drive's own memory where that fits."""
        gain, cell_gain, cell_shift = norms
        candidates, cells, squashed, hidden = drive.new_empty(4, *drive.shape[:2], size)
        return cls(
            drive,
            candidates,
            cells,
            squashed,
            hidden,
            None if gain is None else NormTape(gain, None),
            None if cell_gain is None else NormTape(cell_gain, cell_shift),
            None if slots[0] is None else AttentionTape(len(drive), *slots),
        )

    def by_gate(self, rows: Tensor) -> list[Gates]:
        """Rows (T, B, G) as one tuple (i, f, g, o) or (f, g, o) of (B, H) a step."""
        gates = torch.split(rows, self.cells.shape[-1], dim=-1)
        return list(zip(*(gate.unbind(0) for gate in gates), strict=True))


def forward_pass(
    record: Record, weight: Tensor, h: Tensor, c: Tensor, input_gate: Tensor | None
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
        if record.recurrent is None:
            z.addmm_(h, weight)
        else:
            z += record.recurrent.forward(h @ weight)
        if record.attention is not None:
            record.attention.forward(t, h, z)
        g += g  # a factor of 2 would be a tensor to make, at every step
        z.sigmoid_()
        torch.add(minus_one, g, alpha=2, out=candidate)
        torch.mul(i[0] if input_gate is None else input_gate, candidate, out=cell)
        cell.addcmul_(f, c)
        normal = cell if record.cell is None else record.cell.forward(cell)
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
        self, record: Record, weight: Tensor, c: Tensor, input_gate: Tensor | None
    ) -> None:
        self.record, self.weight, self.static_gate = record, weight, input_gate
        self.before = (c, *record.cells.unbind(0)[:-1])
        self.sums = torch.empty_like(record.sigmoids)
        plain = record.recurrent is None
        self.recurrent = self.sums if plain else torch.empty_like(self.sums)
        self.input_gate = None if input_gate is None else torch.zeros_like(input_gate)
        self._slope, self._through = torch.empty_like(self.sums[0]), torch.empty_like(c)
        self._four = c.new_tensor(4.0)

    def run(self, d_hidden: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the first state from those of all hidden states and the last cell state."""
        record, dh = self.record, torch.zeros_like(dc)
        for norm in (record.recurrent, record.cell):
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
            if record.recurrent is not None:
                dr.copy_(record.recurrent.backward(t, dz))
            torch.mm(dr, self.weight, out=dh)
            if record.attention is not None:
                record.attention.backward(t, dz, dh)
        return dh, dc

    def _through_cell(self, t: int, dh: Tensor, dc: Tensor, d_gates: Gates, gates: Gates) -> None:
        """Gradients of the gates of step t; dc becomes that of the cell state before it."""
        (*di, df, dg, do), (*i, f, _, o) = d_gates, gates
        squashed, candidate = self.record.squashed[t], self.record.candidates[t]
        torch.mul(dh, squashed, out=do)
        through = torch.addcmul(o, self.record.hidden[t], squashed, value=-1, out=self._through)
        if self.record.cell is None:
            dc.addcmul_(dh, through)
        else:
            dc += self.record.cell.backward(t, through.mul_(dh))
        if self.input_gate is None or self.static_gate is None:
            torch.mul(dc, candidate, out=di[0])
            torch.mul(dc, i[0], out=dg)
        else:
            self.input_gate.addcmul_(dc, candidate)
            torch.mul(dc, self.static_gate, out=dg)
        dg *= self._four
        torch.mul(dc, self.before[t], out=df)
        dc *= f
