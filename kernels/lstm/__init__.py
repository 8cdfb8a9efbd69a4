"""LSTMs that join static and dynamic features, and the networks of the Adding Problem."""

from kernels.lstm.adding import AddingNetwork, AddingSettings, adding_batch
from kernels.lstm.feedback import scheduled_ratio
from kernels.lstm.heads import (
    AnomalyHead,
    CarbonHead,
    ExchangeHead,
    FluxScale,
    LinearHead,
    SiteTerms,
    ecosystem_exchange,
    mass_residual,
)
from kernels.lstm.initialization import chrono, forget_bias, identity_recurrence
from kernels.lstm.model import Prediction, StaticDynamicLSTM
from kernels.lstm.planner import Engine, Plan, Situation, obstacles, plan
from kernels.lstm.settings import LSTMSettings, Modulation, Variant

__all__ = [
    "AddingNetwork",
    "AddingSettings",
    "AnomalyHead",
    "CarbonHead",
    "Engine",
    "ExchangeHead",
    "FluxScale",
    "LSTMSettings",
    "LinearHead",
    "Modulation",
    "Plan",
    "Prediction",
    "SiteTerms",
    "Situation",
    "StaticDynamicLSTM",
    "Variant",
    "adding_batch",
    "chrono",
    "ecosystem_exchange",
    "forget_bias",
    "identity_recurrence",
    "mass_residual",
    "obstacles",
    "plan",
    "scheduled_ratio",
]
