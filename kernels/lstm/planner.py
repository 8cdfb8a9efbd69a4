"""Which engine runs a recurrence: the fastest of those that are provably equal."""

import logging
from enum import StrEnum
from functools import cache
from typing import Literal, NamedTuple

from kernels.lstm.settings import LSTMSettings

_log = logging.getLogger(__name__)

Hears = Literal["nothing", "teacher", "itself", "both"]
"""What is fed back: no outputs; observed ones alone; predicted ones alone; now one, now the
other."""


class Engine(StrEnum):
    """How the steps are run."""

    FUSED = "fused"  # torch's own LSTM kernel
    FOLDED = "folded"  # the head folded into the recurrent weights, for any but the step loop
    ANALYTIC = "analytic"  # eager, with a backward pass by hand
    COMPILED = "compiled"  # chunks of the step loop, compiled
    STEPS = "steps"  # the step loop


class Situation(NamedTuple):
    """All that decides which engines are equal.

    Attributes:
        settings: Of the model.
        hears: What is fed back.
        masked: Dropout lies between the hidden states and the head.
        device: ``cpu`` or ``cuda``.
    """

    settings: LSTMSettings
    hears: Hears
    masked: bool
    device: str


class Plan(NamedTuple):
    """An engine, whether the head is folded into its weights, and why."""

    engine: Engine
    folded: bool
    reason: str


def obstacles(situation: Situation) -> dict[Engine, str]:
    """Why each engine that is not equal to the model is not."""
    found = {}
    fold = _against_folding(situation)
    steps_only = f"outputs are fed back, and {fold}" if fold and _free(situation) else None
    if reason := steps_only or _against_fusing(situation.settings):
        found[Engine.FUSED] = reason
    if reason := steps_only or _against_analysis(situation.settings):
        found[Engine.ANALYTIC] = reason
    if not _free(situation):
        found[Engine.FOLDED] = "no predicted output is fed back"
    elif fold:
        found[Engine.FOLDED] = fold
    return found


@cache
def plan(situation: Situation, wish: Engine | None = None) -> Plan:
    """The engine for a situation, or the one that is wished for; logged once.

    Raises:
        ValueError: The wish is for an engine that is not equal to the model.
    """
    against = obstacles(situation)
    if wish in against:
        raise ValueError(
            f"engine {wish}: expected one that is equal to this model, found that {against[wish]}; "
            f"choose from {', '.join(e for e in Engine if e not in against)}"
        )
    chosen = _resolve(situation, wish, against)
    _log.info("%s, hears %s: %s", situation.settings.variant, situation.hears, chosen.reason)
    return chosen


def _resolve(situation: Situation, wish: Engine | None, against: dict[Engine, str]) -> Plan:
    order = [Engine.FUSED, Engine.ANALYTIC, Engine.STEPS]
    if situation.device != "cpu":
        order = [Engine.FUSED, Engine.COMPILED, Engine.STEPS]
    if wish is Engine.FOLDED:
        order = [*order[:-1], Engine.COMPILED]
    elif wish is not None:
        order = [wish]
    engine = next(e for e in order if e not in against)
    # The step loop is what the others are compared with, and keeps its head.
    foldable = _free(situation) and _against_folding(situation) is None
    folded = foldable and engine is not Engine.STEPS
    reason = f"{engine}, with its linear head folded in" if folded else str(engine)
    if wish is not None:
        return Plan(engine, folded, f"{reason}, as was asked")
    passed_over = [f"not {e}: {against[e]}" for e in order[: order.index(engine)]]
    return Plan(engine, folded, "; ".join([reason, *passed_over]))


def _free(situation: Situation) -> bool:
    return situation.hears in ("itself", "both")


def _against_folding(situation: Situation) -> str | None:
    """Why the head cannot be a part of the recurrent weights."""
    if situation.hears == "both":
        return "the teacher is heard at some steps only"
    if situation.settings.head != "linear":
        return f"the {situation.settings.head} head is not linear"
    if situation.settings.layer_norm:
        return "layer normalization stands between the fed-back output and the gates"
    return "dropout stands between the hidden state and the head" if situation.masked else None


def _against_fusing(settings: LSTMSettings) -> str | None:
    """Why torch's LSTM cannot run this variant."""
    if settings.layer_norm:
        return "it has no layer normalization"
    if settings.variant == "ea_lstm":
        return "its input gate is not static"
    if settings.attends and settings.static > 1:
        return "the attention to more than one slot depends on the hidden state"
    return None


def _against_analysis(settings: LSTMSettings) -> str | None:
    """Why the hand-written recurrence does not hold this variant."""
    if not settings.attends or settings.static == 1:
        return None
    if settings.variant == "attention_film" and settings.modulation == "multiplicative":
        return "the context scales the inputs, which no sum of gates can hold"
    if settings.layer_norm and settings.variant != "attention_gate":
        return "the context joins the inputs before their normalization"
    return None
