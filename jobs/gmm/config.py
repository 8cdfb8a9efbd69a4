"""The configuration of the mixture job, its sweep, and the stages that follow from it."""

from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

from pipelines.config import Config
from pipelines.config.sweep import SweptConfig
from pipelines.plan import Resources, StagePlan
from pipelines.tracking.settings import TrackingConfig
from pipelines.training.settings import TrainingConfig

#: As in ``kernels.gmm.families``, which a configuration must not import: it takes torch. Densities
#: of the first group are trained on, those of the second never.
TrainedFamily = Literal[
    "mixture_few",
    "mixture_many",
    "bimodal_far",
    "max_pair",
    "skew_normal",
    "student_t",
    "log_normal",
    "uniform",
    "sharp",
    "spiky",
]
#: Sections that a sweep may reach into; the others are the same for all members.
SWEPT = ("refiner", "supervision", "training")

Points = Annotated[int, Field(ge=8)]
Components = Annotated[int, Field(ge=1, le=16)]


class DataConfig(Config):
    """The densities that are trained on.

    Attributes:
        families: Which kinds, all of which are in each batch.
        points: Fewest and most points of the grids; each batch has one.
        components: Numbers of components of the mixtures, one a batch.
        kinds: What the values are taken for, one kind a batch: it sets the least sigma.
        steps_per_epoch: Batches an epoch; the densities are new in each.
        stored: Densities that the stage ``simulate`` writes to Zarr for all members to read, or
            zero to draw them on the fly.
        per_shard: Densities a store; each store is one member of that stage and has one grid.
    """

    families: tuple[TrainedFamily, ...] = get_args(TrainedFamily)
    points: tuple[Points, Points] = (48, 512)
    components: tuple[Components, ...] = (3, 5, 8)
    kinds: tuple[Literal["cell_mass", "point_density"], ...] = ("cell_mass",)
    steps_per_epoch: PositiveInt = 100
    stored: NonNegativeInt = 0
    per_shard: PositiveInt = 4096

    @property
    def shards(self) -> int:
        """Number of stores."""
        return -(-self.stored // self.per_shard)

    @model_validator(mode="after")
    def _fits(self) -> "DataConfig":
        if self.points[0] > self.points[1]:
            raise ValueError(f"points must be fewest and most, found {self.points}")
        if not (self.families and self.components and self.kinds):
            raise ValueError("families, components and kinds must name at least one each")
        if self.stored % self.per_shard:
            raise ValueError(
                f"stored must be a multiple of per_shard, {self.per_shard}; found {self.stored}"
            )
        return self


class RefinerConfig(Config):
    """The network; see :class:`kernels.gmm.refiner.RefinerConfig`.

    Attributes:
        width: Of the hidden layers.
        blocks: Refining steps.
        levels: Quantiles that the network sees.
        bins: Cells of the standard grid whose masses it sees.
    """

    width: PositiveInt = 128
    blocks: PositiveInt = 4
    levels: PositiveInt = 32
    bins: PositiveInt = 64


class Phase(Config):
    """A part of a curriculum.

    Attributes:
        schedule: How the mixtures on the way share in the loss.
        from_epoch: Its first epoch, counted from 0.
    """

    schedule: Literal["final_only", "linear", "uniform"]
    from_epoch: NonNegativeInt = 0


class SupervisionConfig(Config):
    """How the start and the mixtures after each block share in the loss, phase after phase.

    Attributes:
        phases: In order. By default the last mixture counts alone until the start is worth
            something, then all do in proportion to their place.
    """

    phases: tuple[Phase, ...] = (
        Phase(schedule="final_only"),
        Phase(schedule="linear", from_epoch=5),
    )

    def schedule(self, epoch: int) -> Literal["final_only", "linear", "uniform"]:
        """The schedule of an epoch, counted from 0."""
        return [phase.schedule for phase in self.phases if phase.from_epoch <= epoch][-1]

    @model_validator(mode="after")
    def _fits(self) -> "SupervisionConfig":
        firsts = [phase.from_epoch for phase in self.phases]
        if firsts[:1] != [0] or firsts != sorted(set(firsts)):
            raise ValueError(f"phases must begin at epoch 0 and follow each other, found {firsts}")
        return self


class EvaluationConfig(Config):
    """What members are measured on: the same densities for all of them.

    Attributes:
        densities: Of each family, those included that no member has seen.
        points: Of their grid.
        components: Numbers of components that are tried.
        validation: Densities that training is validated on, of the families that it sees.
        pictures: Densities that are drawn, one a family, no more than there are.
    """

    densities: PositiveInt = 64
    points: Points = 96
    components: tuple[Components, ...] = (3, 5, 8)
    validation: Annotated[int, Field(ge=16)] = 320
    pictures: PositiveInt = 6


class StageResources(Config):
    """What one member of each stage asks of Slurm."""

    simulate: Resources = Resources()
    train: Resources = Resources()
    evaluate: Resources = Resources()
    collect: Resources = Resources()


class NotingConfig(TrackingConfig):
    """What is noted of a training. It changes no result.

    Attributes:
        detect_anomaly: Take a step that is skipped once more under autograd's anomaly detection,
            and note which operation made the first NaN.
        keep_skipped: Batches of skipped steps to keep for ``python -m jobs.gmm.replay``.
    """

    detect_anomaly: bool = False
    keep_skipped: NonNegativeInt = 5


class GmmConfig(SweptConfig):
    """The mixture job."""

    sweep: dict[str, JsonValue] = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    refiner: RefinerConfig = RefinerConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: NotingConfig = NotingConfig(project="yaoki-gmm")
    resources: StageResources = StageResources()

    @model_validator(mode="after")
    def _fits(self) -> "GmmConfig":
        if self.training.batch < len(self.data.families):
            raise ValueError(
                f"training.batch must be at least the number of data.families, "
                f"{len(self.data.families)}; found {self.training.batch}"
            )
        if self.data.stored and self.data.per_shard % self.training.batch:
            raise ValueError(
                f"data.per_shard must be a multiple of training.batch, {self.training.batch}; "
                f"found {self.data.per_shard}"
            )
        self._check_sweep(SWEPT)
        return self


def stages(config: GmmConfig) -> list[StagePlan]:
    """The arrays of the job, in order; without stored densities there is nothing to simulate."""
    ask, here = config.resources, "jobs.gmm"
    simulate = [
        StagePlan("simulate", f"{here}.densities:simulate", config.data.shards, ask.simulate)
    ]
    return [
        *(simulate if config.data.stored else []),
        StagePlan("train", f"{here}.training:train", config.members, ask.train),
        StagePlan("evaluate", f"{here}.evaluation:evaluate", config.members, ask.evaluate, "each"),
        StagePlan("collect", f"{here}.collection:collect", 1, ask.collect, "end"),
    ]
