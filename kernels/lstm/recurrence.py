r"""The weights of every variant, and the sums that enter the gates.

Without layer normalization the gate sums are

.. math:: z_t = W x'_t + W_y y_{t-1} + U h_{t-1} + V s_t + b

with x' the modulated inputs, y the output of the step before (where that is fed back), and s the
static embedding or the result of an attention with query h_{t-1}. Input columns and gate
injections are then one thing: :math:`[W | V] [x; s] = W x + V s`. Layer normalization tells
them apart,

.. math:: z_t = \mathrm{LN}(W x'_t + W_y y_{t-1} [+ V s_t]) + \mathrm{LN}(U h_{t-1}) [+ V s_t] + b

with V s inside for ``concat`` and ``attention_input``, outside for ``gate`` and
``attention_gate``.

References:
    Ba, Kiros & Hinton 2016, arXiv:1607.06450 (eq. 20-22, one bias); Perez et al. 2018,
    arXiv:1709.07871 (FiLM); Kratzert et al. 2019, doi:10.5194/hess-23-5089-2019 (EA-LSTM).
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.lstm.analytic import Norms
from kernels.lstm.initialization import chrono_forget
from kernels.lstm.settings import LSTMSettings
from kernels.lstm.statics import Statics
from kernels.lstm.tape import EPS


class Weights(NamedTuple):
    """The matrices of the gate sums: x (G, D), fed (G, D_out) or nothing, h (G, H), bias (G)."""

    x: Tensor
    fed: Tensor | None
    h: Tensor
    bias: Tensor

    def folded(self, weight: Tensor, bias: Tensor) -> "Weights":
        r"""Weights of the recurrence that hears its own linear head, :math:`y = W_o h + b_o`.

        :math:`W_y y_{t-1} + U h_{t-1} + b = (U + W_y W_o) h_{t-1} + (b + W_y b_o)`: an input
        "fed" then holds what y differs from the head's output by.
        """
        fed = cast(Tensor, self.fed)
        return self._replace(h=self.h + fed @ weight, bias=self.bias + fed @ bias)


class Attention(NamedTuple):
    """Query weights (A, H), scaled keys (B, S, A), values (B, S, E)."""

    query: Tensor
    keys: Tensor
    values: Tensor


class Recurrence(nn.Module):
    """Weights of one recurrence. Engines (:mod:`kernels.lstm.engines`) run it.

    Gates lie in torch's order i, f, g, o; ``ea_lstm`` has f, g, o and a static input gate.

    Args:
        settings: Sizes and variant.
    """

    def __init__(self, settings: LSTMSettings) -> None:
        super().__init__()
        self.settings = settings
        s, variant = settings, settings.variant
        gates = (3 if variant == "ea_lstm" else 4) * s.hidden
        self.weight_x = _matrix(gates, s.dynamic)
        self.weight_fed = _matrix(gates, s.outputs) if s.autoregressive else None
        self.weight_h = _matrix(gates, s.hidden)
        self.bias = _matrix(gates)
        injects = variant in ("concat", "gate", "attention_input", "attention_gate")
        self.weight_static = _matrix(gates, s.embedding) if injects else None
        self.modulation = _matrix(_modulation_rows(s), s.embedding) if _modulation_rows(s) else None
        self.input_gate = nn.Linear(s.embedding, s.hidden) if variant == "ea_lstm" else None
        self.query = _matrix(s.attention, s.hidden) if s.attends else None
        self.key = _matrix(s.attention, s.embedding) if s.attends else None
        self.value = _matrix(s.embedding, s.embedding) if s.attends else None
        self.gain_x = nn.Parameter(torch.ones(gates)) if s.layer_norm else None
        self.gain_h = nn.Parameter(torch.ones(gates)) if s.layer_norm else None
        self.cell_norm = nn.LayerNorm(s.hidden, EPS) if s.layer_norm and s.normalize_cell else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw matrices uniformly within 1 / sqrt(H), as torch does; forget gates start open."""
        longest = self.settings.longest
        bound = self.settings.hidden**-0.5
        for name, parameter in self.named_parameters(recurse=False):
            if not name.startswith("gain"):
                nn.init.uniform_(parameter, -bound, bound)
        if self.settings.variant == "film" and self.modulation is not None:
            nn.init.zeros_(self.modulation)  # FiLM starts as the identity
        with torch.no_grad():
            *i, f, _, _ = torch.split(self.bias, self.settings.hidden)
            f.fill_(1.0)
            if longest:
                chrono_forget(f, longest)
                for gate in i:  # none where it is static
                    gate.copy_(-f)

    @property
    def weights(self) -> Weights:
        """The matrices as they are learned."""
        return Weights(self.weight_x, self.weight_fed, self.weight_h, self.bias)

    @property
    def inside(self) -> bool:
        """Whether what is injected passes the normalization of the inputs."""
        return self.settings.variant in ("concat", "attention_input") or self._shifts_only

    def attention(self, statics: Statics) -> Attention | None:
        """Keys and values of the slots; nothing where the variant does not attend."""
        if self.key is None or self.value is None or self.query is None or statics.slots is None:
            return None
        keys = functional.linear(statics.slots, self.key) * self.settings.attention**-0.5
        return Attention(self.query, keys, functional.linear(statics.slots, self.value))

    def constant(self, statics: Statics, attention: Attention | None) -> Tensor | None:
        """What is injected at every step alike, (B, E): an embedding, or the only slot's value."""
        if attention is None:
            return statics.embedding
        return attention.values[:, 0] if attention.values.shape[1] == 1 else None

    def modulated(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Inputs (..., B, D) under a context (B, E): shifted, or scaled and shifted."""
        if self.modulation is None or context is None:
            return x
        change = functional.linear(context, self.modulation)
        return x + change if self._shifts_only else scale_and_shift(x, change)

    @property
    def scales(self) -> bool:
        """Whether the result of an attention scales the inputs: no sum of gates can hold that."""
        return self.settings.attends and self.modulation is not None and not self._shifts_only

    @property
    def _shifts_only(self) -> bool:
        return self.settings.variant == "attention_film" and self.settings.modulation == "additive"

    def context_weight(self, weights: Weights) -> Tensor | None:
        """V, (G, E), of an attention whose result can be added to the gate sums."""
        if self._shifts_only:
            return weights.x @ cast(Tensor, self.modulation)
        return self.weight_static

    def norms(self) -> Norms | None:
        """Layer normalization inside the recurrence."""
        if self.gain_h is None:
            return None
        cell = self.cell_norm
        return Norms(self.gain_h, None if cell is None else (cell.weight, cell.bias))

    def static_gate(self, statics: Statics) -> Tensor | None:
        """The input gate of ``ea_lstm``, (B, H)."""
        if self.input_gate is None:
            return None
        return cast(Tensor, self.input_gate(statics.embedding)).sigmoid()


def scale_and_shift(x: Tensor, change: Tensor) -> Tensor:
    """(1 + a) x + b for inputs (..., B, D) and changes (B, 2 D): a, then b."""
    scale, shift = change.chunk(2, dim=-1)
    return torch.addcmul(x + shift, x, scale)


def _matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def _modulation_rows(settings: LSTMSettings) -> int:
    """Rows of the matrix that makes scale and shift of the inputs."""
    if settings.variant == "attention_film" and settings.modulation == "additive":
        return settings.dynamic
    return 2 * settings.dynamic if settings.variant in ("film", "attention_film") else 0
