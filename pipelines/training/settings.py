"""How a network is trained, as a configuration says it; imports no torch."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pipelines.config import Config


class TrainingConfig(Config):
    """How a network is trained.

    Attributes:
        epochs: Passes over the training set.
        batch: Samples that the optimizer sees in a step.
        microbatch: Samples on the device at once, at first; out of memory halves it. ``auto``
            finds the largest that fits, before the first step.
        grow_after: Steps without an out-of-memory after which a microbatch that was halved is
            doubled again, or None never to do so.
        grain: Samples that go through the network together. The gradient is the sum over grains
            in order, and so the same bit for bit for every microbatch that is a multiple of it.
        learning_rate: At the start.
        weight_decay: Of AdamW.
        schedule: How the learning rate falls, epoch by epoch.
        clip: Largest norm of the gradient, or None for no clipping.
        ema: Decay of the averaged weights a step, or None for none.
        patience: Validations in a row without a new best after which training stops, or None. The
            weights of the last step are kept, or their average, not those of the best one.
        validate_every: Epochs between validations.
        precision: ``fp32``, or ``bf16`` for autocast.
        max_skipped: Fraction of steps that may be skipped because they were not finite; of the
            first hundred steps, what that fraction of a hundred comes to.
    """

    epochs: PositiveInt = 4096
    batch: PositiveInt = 32
    microbatch: PositiveInt | Literal["auto"] = 32
    grow_after: PositiveInt | None = None
    grain: PositiveInt = 8
    learning_rate: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 1e-3
    schedule: Literal["linear", "cosine", "constant", "late"] = "linear"
    clip: PositiveFloat | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    patience: PositiveInt | None = None
    validate_every: PositiveInt = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _fits(self) -> "TrainingConfig":
        microbatch = self.largest_microbatch
        whole = microbatch == self.batch or microbatch % self.grain == 0
        if not (self.grain <= microbatch <= self.batch and whole):
            raise ValueError(
                "expected grain <= microbatch <= batch, and a microbatch that is the batch or a "
                f"multiple of the grain; found grain {self.grain}, microbatch {self.microbatch}, "
                f"batch {self.batch}"
            )
        return self

    @property
    def largest_microbatch(self) -> int:
        """The most samples that may be on the device at once."""
        return self.batch if self.microbatch == "auto" else self.microbatch


def learning_rate(config: TrainingConfig, epoch: int) -> float:
    """The learning rate of an epoch.

    ``linear`` is :math:`1 - e/E` of the first, ``cosine`` :math:`(1 + \\cos \\pi e/E)/2`.
    ``late`` is constant for two thirds and then falls to zero as ``linear`` does.
    """
    progress = epoch / config.epochs
    factors = {
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "constant": 1.0,
        "late": min(1.0, 3 * (1 - progress)),
    }
    return config.learning_rate * factors[config.schedule]
