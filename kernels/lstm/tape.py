"""Layer normalization and attention, step by step, with their backward passes by hand."""

from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-5
_aten = torch.ops.aten


class NormTape:
    """Layer normalization of the last axis at every step of a recurrence.

    Args:
        gain: (N).
        shift: (N), or nothing.

    Attributes:
        d_gain: Gradient of the gain, once all steps went back.
        d_shift: That of the shift.
    """

    def __init__(self, gain: Tensor, shift: Tensor | None) -> None:
        self.gain, self.shift = gain, shift
        self.steps: list[tuple[Tensor, Tensor]] = []
        self.begin()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N) of the next step, normalized."""
        y, mean, scale = torch.native_layer_norm(x, self.gain.shape, self.gain, self.shift, EPS)
        self.steps.append((mean, scale))
        return y

    def begin(self) -> None:
        """Begin a backward pass: a graph that is kept may have more than one."""
        self.d_gain = torch.zeros_like(self.gain)
        self.d_shift = None if self.shift is None else torch.zeros_like(self.shift)

    def backward(self, t: int, x: Tensor, dy: Tensor) -> Tensor:
        """Gradient of x at step t; adds to those of gain and shift."""
        mean, scale = self.steps[t]
        mask = [True, True, self.shift is not None]
        dx: Tensor
        dx, d_gain, d_shift = _aten.native_layer_norm_backward(
            dy, x, self.gain.shape, mean, scale, self.gain, self.shift, mask
        )
        self.d_gain += d_gain
        if self.d_shift is not None:
            self.d_shift += d_shift
        return dx


class AttentionTape:
    """Attention of the hidden state to slots at every step, its result in the gate sums.

    Args:
        steps: Number of steps.
        query: Q, (A, H).
        keys: (B, S, A), scaled.
        values: (B, S, E).
        weight: V, (G, E).

    Attributes:
        weights: Attention, (T, B, S).
    """

    def __init__(
        self, steps: int, query: Tensor, keys: Tensor, values: Tensor, weight: Tensor
    ) -> None:
        self.query, self.keys, self.values, self.weight = query, keys, values, weight
        batch, slots, width = keys.shape
        self.queries = keys.new_empty(steps, batch, 1, width)
        self.weights = keys.new_empty(steps, batch, slots)
        self.results = keys.new_empty(steps, batch, 1, values.shape[-1])
        self.d_queries = torch.empty_like(self.queries)
        self.d_scores = torch.empty_like(self.weights)
        self.d_results = torch.empty_like(self.results)

    def forward(self, t: int, h: Tensor, z: Tensor) -> None:
        """Attend with h (B, H), and add what that gives to the gate sums z (B, G)."""
        q, weights, result = self.queries[t], self.weights[t], self.results[t]
        torch.mm(h, self.query.T, out=q.squeeze(1))
        scores = torch.bmm(q, self.keys.mT).squeeze(1)
        torch.softmax(scores, dim=-1, out=weights)
        torch.bmm(weights.unsqueeze(1), self.values, out=result)
        z.addmm_(result.squeeze(1), self.weight.T)

    def backward(self, t: int, dz: Tensor, dh: Tensor) -> None:
        """Add to the gradient of h, (B, H), what comes through the gate sums' dz (B, G)."""
        dq, d_scores, d_result = self.d_queries[t], self.d_scores[t], self.d_results[t]
        torch.mm(dz, self.weight, out=d_result.squeeze(1))
        d_weights = torch.bmm(d_result, self.values.mT).squeeze(1)
        _aten._softmax_backward_data(
            d_weights, self.weights[t], -1, d_weights.dtype, grad_input=d_scores
        )
        torch.bmm(d_scores.unsqueeze(1), self.keys, out=dq)
        dh.addmm_(dq.squeeze(1), self.query)

    def gradients(
        self, dz: Tensor, with_hidden: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of query, keys, values and weight from those of all gate sums (T, B, G)."""
        d_query = with_hidden(self.d_queries.squeeze(2))
        d_keys = _over_steps(self.d_scores, self.queries)
        d_values = _over_steps(self.weights, self.d_results)
        d_weight = dz.flatten(0, 1).T @ self.results.flatten(0, 2)
        return d_query, d_keys, d_values, d_weight


def _over_steps(by_slot: Tensor, by_feature: Tensor) -> Tensor:
    """Sum over steps of the outer products of (T, B, S) and (T, B, 1, E): (B, S, E)."""
    return torch.bmm(by_slot.permute(1, 2, 0), by_feature.squeeze(2).transpose(0, 1))
