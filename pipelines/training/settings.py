"""How a network is trained, as a configuration says it; imports no torch."""

import math
from typing import Literal

from pipelines.config import Config


class TrainingConfig(Config):
    """How a network is trained.

    Attributes:
        epochs: Passes over the training set.
        batch: Samples that the optimizer sees in a step.
        microbatch: Samples on the device at once, at first; out of memory halves it.
        grain: Samples that go through the network together. The gradient is the sum over grains
            in order, and so the same bit for bit for every microbatch that is a multiple of it.
        learning_rate: At the start.
        weight_decay: Of AdamW.
        schedule: How the learning rate falls, epoch by epoch.
        clip: Largest norm of the gradient, or None for no clipping.
        ema: Decay of the averaged weights a step, or None for none.
        patience: Validations without a new best after which training stops, or None.
        validate_every: Epochs between validations.
        precision: ``fp32``, or ``bf16`` for autocast.
        max_skipped: Fraction of steps that may be skipped because they were not finite.
    """

    epochs: int = 4096
    batch: int = 32
    microbatch: int = 32
    grain: int = 8
    learning_rate: float = 2e-4
    weight_decay: float = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip: float | None = None
    ema: float | None = None
    patience: int | None = None
    validate_every: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    max_skipped: float = 0.01


def learning_rate(config: TrainingConfig, epoch: int) -> float:
    """The learning rate of an epoch.

    ``linear`` is :math:`1 - e/E` of the first, ``cosine`` :math:`(1 + \\cos \\pi e/E)/2`.
    """
    progress = epoch / config.epochs
    factors = {
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "constant": 1.0,
    }
    return config.learning_rate * factors[config.schedule]
