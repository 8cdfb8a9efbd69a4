"""The configuration of the Adding Problem, its sweep, and the stages that follow from it."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipelines.config import Config
from pipelines.config.sweep import SweptConfig
from pipelines.plan import Resources, StagePlan
from pipelines.tracking.settings import TrackingConfig
from pipelines.training.settings import TrainingConfig

#: What a sweep may reach into.
SWEPT = ("contestant", "length", "contestants")


class Contestant(Config):
    """A network and how it is trained.

    Attributes:
        kind: The network; see :data:`kernels.lstm.adding.AddingKind`.
        hidden: Size of its state.
        from_mean: Start from saying about 1, the mean of all sums.
        sequences: Sequences that it is trained on again and again, in a new order every time
            (what does not fill a batch is left out of that pass), or zero for new ones in every
            step.
        steps: Most steps to train for, or None for those of the task.
        validate_every: Steps between validations; the learning rate changes with them.
        batch: Sequences a step.
        grain: Sequences that go through the network together.
        learning_rate: Of Adam, at the start.
        schedule: How it falls.
        clip: Largest norm of the gradient, or None.
        ema: Decay of the averaged weights a step, which then count, or None.
    """

    # As in ``kernels.lstm.adding``, which a configuration must not import: it takes torch.
    kind: Literal["rnn", "irnn", "lstm", "lstm_forget", "lstm_chrono", "lstm_quantiles"]
    hidden: PositiveInt = 128
    from_mean: bool = False
    sequences: NonNegativeInt = 0
    steps: PositiveInt | None = None
    validate_every: PositiveInt = 20
    batch: PositiveInt = 128
    grain: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-2
    schedule: Literal["linear", "cosine", "constant", "late"] = "late"
    clip: PositiveFloat | None = 1.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Contestant":
        if 0 < self.sequences < self.batch:
            raise ValueError(
                f"sequences must be zero or at least the batch, {self.batch}; "
                f"found {self.sequences}"
            )
        return self


class Task(Config):
    """Sequences of one length, and when a network has learned them.

    Attributes:
        length: Steps of a sequence.
        steps: Most steps to train for.
        goal: Validation MSE below which training stops.
    """

    length: Annotated[int, Field(ge=3)]
    steps: PositiveInt
    goal: PositiveFloat


class EvaluationConfig(Config):
    """What networks are measured on: for each length the same sequences for all of them.

    Attributes:
        validation: Sequences that decide when training stops, and whose predictions are kept.
        test: Sequences that decide nothing.
        levels: MSEs, and how many steps it took to be below them.
    """

    validation: Annotated[int, Field(ge=2)] = 1000
    test: Annotated[int, Field(ge=2)] = 4000
    levels: tuple[PositiveFloat, ...] = (1e-2, 1e-3)


class StageResources(Config):
    """What one member of each stage asks of Slurm."""

    train: Resources = Resources()
    collect: Resources = Resources()


class AddingConfig(SweptConfig):
    """The comparison.

    Attributes:
        contestant: Which of the contestants, where no sweep says so.
        length: Which of the tasks, by its length, where no sweep says so.
        contestants: The networks, by name.
        tasks: The lengths.
    """

    seeds: PositiveInt = 5
    contestant: str = "lstm_chrono"
    length: PositiveInt = 100
    sweep: dict[str, JsonValue] = Field(default_factory=dict)
    contestants: dict[str, Contestant] = Field(
        default_factory=lambda: {"lstm_chrono": Contestant(kind="lstm_chrono")}
    )
    tasks: tuple[Task, ...] = (Task(length=100, steps=600, goal=1e-3),)
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig(project="yaoki-adding")
    resources: StageResources = StageResources()

    @property
    def chosen(self) -> Contestant:
        """The contestant of a member's configuration."""
        return self.contestants[self.contestant]

    @property
    def task(self) -> Task:
        """The task of a member's configuration."""
        (task,) = (task for task in self.tasks if task.length == self.length)
        return task

    @property
    def steps(self) -> int:
        """Most steps of a member's configuration."""
        return self.chosen.steps or self.task.steps

    @property
    def training(self) -> TrainingConfig:
        """How the network of a member's configuration is trained; an epoch ends in a validation."""
        chosen = self.chosen
        return TrainingConfig(
            epochs=self.steps // chosen.validate_every,
            batch=chosen.batch,
            microbatch=chosen.batch,
            grain=min(chosen.grain, chosen.batch),
            learning_rate=chosen.learning_rate,
            weight_decay=0.0,
            schedule=chosen.schedule,
            clip=chosen.clip,
            ema=chosen.ema,
            # A network that explodes has lost; it must not end the comparison.
            max_skipped=1.0,
        )

    @model_validator(mode="after")
    def _fits(self) -> "AddingConfig":
        lengths = [task.length for task in self.tasks]
        if len(set(lengths)) != len(lengths):
            raise ValueError(f"tasks must have different lengths, found {lengths}")
        if self.contestant not in self.contestants:
            raise ValueError(
                f"contestant: expected one of {', '.join(self.contestants)}; "
                f"found {self.contestant}"
            )
        if self.length not in lengths:
            raise ValueError(f"length: expected one of {lengths}, found {self.length}")
        if self.steps % self.chosen.validate_every:
            raise ValueError(
                f"contestants.{self.contestant}.validate_every must divide the steps, "
                f"{self.steps}; found {self.chosen.validate_every}"
            )
        self._check_sweep(SWEPT)
        return self


def stages(config: AddingConfig) -> list[StagePlan]:
    """The arrays of the job, in order."""
    ask, here = config.resources, "jobs.adding"
    return [
        StagePlan("train", f"{here}.training:train", config.members, ask.train),
        StagePlan("collect", f"{here}.collection:collect", 1, ask.collect, "end"),
    ]
