"""One model for all variants: static and dynamic features, past and known future, to targets."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kernels.lstm.engines import run
from kernels.lstm.feedback import Coin, Feedback, flip_coins
from kernels.lstm.heads import FLUX_HEADS, FluxScale, Head, LinearHead
from kernels.lstm.planner import Engine, Hears, Plan, Situation, plan
from kernels.lstm.recurrence import Recurrence
from kernels.lstm.settings import LSTMSettings
from kernels.lstm.statics import StaticNetwork, Statics
from kernels.lstm.terms import Course


class Prediction(NamedTuple):
    """What the model says.

    Attributes:
        outputs: (B, T_pred, D_out).
        attention: Weights of the static slots, (B, T_ctx + T_pred, S); nothing without attention.
        plans: How the context and the prediction were run; one plan where it was one run.
    """

    outputs: Tensor
    attention: Tensor | None
    plans: tuple[Plan, ...]


class _Call(NamedTuple):
    """A checked call, time first."""

    x: Tensor  # (T_ctx + T_pred, B, D_dyn)
    statics: Statics
    past: Tensor | None  # (T_ctx, B, D_out), as it is heard
    future: Tensor | None  # (T_pred, B, D_out), as it is heard
    hears: Hears
    wish: Engine | None
    mask: Tensor | None  # (B, H)
    context: int


class _Run(NamedTuple):
    hidden: Tensor  # (T_pred, B, H)
    attention: Tensor | None  # (T_ctx + T_pred, B, S)
    plans: tuple[Plan, ...]


class StaticDynamicLSTM(nn.Module):
    """An LSTM over a context and a prediction, with static features by one of eight variants.

    One recurrence runs through both. If it is autoregressive, its inputs have the same width
    everywhere: in the context it hears the past targets, one step late.

    Args:
        settings: Sizes and choices.
        scale: Of the training data, for a head of fluxes.
    """

    def __init__(self, settings: LSTMSettings, scale: FluxScale | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.input_norm = nn.BatchNorm1d(settings.dynamic) if settings.input_norm else None
        self.statics = StaticNetwork(settings)
        self.recurrence = Recurrence(settings)
        self.head: Head = (
            LinearHead(settings.hidden, settings.outputs)
            if settings.head == "linear"
            else FLUX_HEADS[settings.head](settings.hidden, scale, settings.head_hidden)
        )

    def forward(
        self,
        context_x: Tensor,
        static_x: Tensor,
        future_known: Tensor,
        target: Tensor | None = None,
        past_target: Tensor | None = None,
        *,
        teacher_forcing: float = 0.0,
        coin: Coin = "sample",
        generator: torch.Generator | None = None,
        engine: Engine | str | None = None,
    ) -> Prediction:
        """Predict.

        Args:
            context_x: Dynamic features of the past, (B, T_ctx, D_dyn); T_ctx may be 0 if the
                model is not autoregressive.
            static_x: Static features, (B, D_static).
            future_known: Dynamic features of the prediction, (B, T_pred, D_dyn).
            target: (B, T_pred, D_out); read only where the teacher is heard.
            past_target: (B, T_ctx, D_out), for autoregressive models.
            teacher_forcing: Probability that a step after the first hears the target of the step
                before instead of the prediction. The first hears the last past target.
            coin: Who flips for that.
            generator: On the CPU, for coins and dropout; its state is the caller's to save.
            engine: Runs the prediction, instead of the one that the planner finds.

        Raises:
            ValueError: Shapes do not fit, something needed is missing, or the engine is not equal
                to the model.
        """
        check_shapes(self.settings, context_x, static_x, future_known, past_target, target)
        if not 0 <= teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing: expected 0 to 1, found {teacher_forcing}")
        hears = self._hears(teacher_forcing, future_known.shape[1])
        if hears in ("teacher", "both") and target is None and future_known.shape[1] > 1:
            raise ValueError(f"target: expected for teacher_forcing={teacher_forcing}, found none")
        call = _Call(
            self._normalize_inputs(torch.cat((context_x, future_known), dim=1)).transpose(0, 1),
            self.statics(static_x),
            self._heard(past_target),
            self._heard(target),
            hears,
            None if engine is None else Engine(engine),
            self._mask(context_x, generator),
            context_x.shape[1],
        )
        if hears in ("nothing", "teacher"):
            result = self._run_known(call)
        else:
            result = self._run_feedback(call, self._coins(call, teacher_forcing, coin, generator))
        outputs = self._read(result.hidden, call)
        attention = result.attention
        return Prediction(
            outputs.transpose(0, 1),
            None if attention is None else attention.transpose(0, 1),
            result.plans,
        )

    def _hears(self, teacher_forcing: float, steps: int) -> Hears:
        if not self.settings.autoregressive:
            return "nothing"
        if teacher_forcing == 1 or steps == 1:
            return "teacher"
        return "both" if teacher_forcing else "itself"

    def _normalize_inputs(self, x: Tensor) -> Tensor:
        """Batch normalization over samples and steps, (B, T, D) to the same."""
        if self.input_norm is None:
            return x
        normal: Tensor = self.input_norm(x.flatten(0, 1))
        return normal.view_as(x)

    def _heard(self, y: Tensor | None) -> Tensor | None:
        if y is None or not self.settings.autoregressive:
            return None
        return self.head.normalize(y).transpose(0, 1)

    def _mask(self, like: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Which hidden units the head sees in this sequence, scaled, (B, H)."""
        p = self.settings.dropout
        if not p or not self.training:
            return None
        kept = torch.rand(len(like), self.settings.hidden, generator=_given(generator)) >= p
        return kept.to(like) / (1 - p)

    def _coins(
        self, call: _Call, ratio: float, coin: Coin, generator: torch.Generator | None
    ) -> Tensor | None:
        if call.hears != "both":
            return None
        steps, batch = len(call.x) - call.context, call.x.shape[1]
        coins = flip_coins(steps, batch, ratio, coin, _given(generator))
        return coins.to(call.x.device)

    def _plan(self, call: _Call, hears: Hears, wish: Engine | None) -> Plan:
        masked = call.mask is not None
        return plan(Situation(self.settings, hears, masked, call.x.device.type), wish)

    def _run_known(self, call: _Call) -> _Run:
        """Context and prediction in one run: all that is heard is known before."""
        fed = None
        if call.past is not None:
            future = call.past[:0] if call.future is None else call.future[:-1]
            fed = torch.cat((torch.zeros_like(call.past[:1]), call.past, future))
        chosen = self._plan(call, call.hears, call.wish)
        course = Course(call.x, call.statics, fed)
        unrolled = run(self.recurrence, course, call.statics.state, chosen)
        return _Run(unrolled.hidden[call.context :], unrolled.attention, (chosen,))

    def _run_feedback(self, call: _Call, coins: Tensor | None) -> _Run:
        """The context with what was observed, then the prediction hearing itself."""
        past = cast(Tensor, call.past)
        fed = torch.cat((torch.zeros_like(past[:1]), past[:-1]))
        # Folding, and hence a wish for it, is for the prediction alone.
        wish = None if call.wish is Engine.FOLDED else call.wish
        plans = self._plan(call, "teacher", wish), self._plan(call, call.hears, call.wish)
        context = Course(call.x[: call.context], call.statics, fed)
        before = run(self.recurrence, context, call.statics.state, plans[0])
        observed = None if coins is None else self._one_late(call)
        feedback = Feedback(self._fed_back(call), past[-1], observed, coins)
        future = Course(call.x[call.context :], call.statics)
        after = run(self.recurrence, future, before.state, plans[1], feedback)
        attention = None
        if before.attention is not None and after.attention is not None:
            attention = torch.cat((before.attention, after.attention))
        return _Run(after.hidden, attention, plans)

    def _one_late(self, call: _Call) -> Tensor:
        past, future = cast(Tensor, call.past), cast(Tensor, call.future)
        return torch.cat((past[-1:], future[:-1]))

    def _read(self, hidden: Tensor, call: _Call) -> Tensor:
        """Hidden states (..., B, H) to outputs (..., B, D_out)."""
        seen = hidden if call.mask is None else hidden * call.mask
        if isinstance(self.head, LinearHead):
            return cast(Tensor, self.head(seen))
        return cast(Tensor, self.head(seen, call.statics.site))

    def _fed_back(self, call: _Call) -> Callable[[Tensor], Tensor]:
        """Hidden states (B, H) to what the next step hears."""
        head = self.head
        if isinstance(head, LinearHead) and call.mask is None:
            return head
        return lambda h: head.normalize(self._read(h, call))


def _given(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise ValueError(
            "generator: expected one for the coins of teacher forcing or for dropout, found none; "
            "give a torch.Generator on the CPU and save its state, so that a run can be resumed"
        )
    return generator


def check_shapes(
    settings: LSTMSettings,
    context_x: Tensor,
    static_x: Tensor,
    future_known: Tensor,
    past_target: Tensor | None,
    target: Tensor | None,
) -> None:
    """Raise ValueError unless the arguments of a call fit each other and the settings."""
    batch, context, steps = len(static_x), context_x.shape[1], future_known.shape[1]
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("context_x", context_x, (batch, context, settings.dynamic)),
        ("static_x", static_x, (batch, settings.static)),
        ("future_known", future_known, (batch, steps, settings.dynamic)),
        ("target", target, (batch, steps, settings.outputs)),
        ("past_target", past_target, (batch, context, settings.outputs)),
    ]
    for name, tensor, shape in expected:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {tuple(tensor.shape)}")
    if steps < 1:
        raise ValueError("future_known: expected at least one step to predict, found none")
    if settings.autoregressive and (past_target is None or not context):
        raise ValueError(
            "past_target: an autoregressive model needs a context of at least one step and the "
            f"targets in it, found {context} steps and "
            f"{'no targets' if past_target is None else 'their targets'}"
        )
