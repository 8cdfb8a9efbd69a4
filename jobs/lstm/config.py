"""The configuration of the LSTM job, its sweep, and the stages that follow from it."""

from datetime import date
from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from jobs.lstm.sources import DataConfig
from pipelines.config import Config
from pipelines.plan import Resources, StagePlan
from pipelines.search.settings import require_optuna
from pipelines.search.swept import SearchedConfig
from pipelines.tracking.settings import TrackingConfig
from pipelines.training.settings import TrainingConfig

#: As in ``kernels.lstm``, which a configuration must not import: it takes torch. Type B stands
#: here twice, so that one key sweeps all nine.
Variant = Literal[
    "none",
    "concat",
    "film",
    "gate",
    "attention_input",
    "attention_film_additive",
    "attention_film_multiplicative",
    "attention_gate",
    "ea_lstm",
]
#: Sections that a sweep may reach into; sites and what is stored are the same for all members.
SWEPT = ("network", "forcing", "objective", "split", "training")
#: Those that a search may reach into: the others change what a validation measures.
SEARCHED = ("network", "forcing", "training")

Share = Annotated[float, Field(gt=0, lt=1)]


class SitesConfig(Config):
    """The simulated sites, the same for all members.

    Attributes:
        count: How many.
        years: Calendar years of each record.
        first_year: The first of them.
        per_shard: Sites that one member of ``simulate`` makes.
    """

    count: PositiveInt = 384
    years: PositiveInt = 6
    first_year: Annotated[int, Field(ge=1900, le=2100)] = 2001
    per_shard: PositiveInt = 32

    @property
    def days(self) -> int:
        """Days of a record."""
        return (date(self.first_year + self.years, 1, 1) - date(self.first_year, 1, 1)).days

    @model_validator(mode="after")
    def _fits(self) -> "SitesConfig":
        if self.count % self.per_shard:
            raise ValueError(
                f"count must be a multiple of per_shard, {self.per_shard}; found {self.count}"
            )
        return self


class SplitConfig(Config):
    """What is learned from and what is tested on.

    Attributes:
        kind: By sites, by days, or by sites of which the first years are known.
        validation: Share of sites, or of days, for validation.
        test: Share of sites, or of days, for test.
        warm_years: Years of the held-out sites that are trained on, for ``warm_site``.
        train_until: Last day for training, for ``dates``; the days after it are for validation.
        test_from: First day for test, for ``dates``.
    """

    kind: Literal["site", "time", "warm_site", "dates"] = "site"
    validation: Share = 0.1
    test: Share = 0.2
    warm_years: PositiveInt = 2
    train_until: date | None = None
    test_from: date | None = None

    def cuts(self, days: int) -> tuple[int, int]:
        """First day of validation and of test, where it is days that are split."""
        return round(days * (1 - self.validation - self.test)), round(days * (1 - self.test))

    @model_validator(mode="after")
    def _fits(self) -> "SplitConfig":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test must leave a share for training")
        if self.kind == "dates" and not (
            self.train_until and self.test_from and self.train_until < self.test_from
        ):
            raise ValueError(
                "kind=dates needs train_until, and test_from after it; found "
                f"{self.train_until} and {self.test_from}"
            )
        return self


class WindowsConfig(Config):
    """The windows that are trained on.

    Attributes:
        context: Days that are seen before the prediction.
        horizon: Days that are predicted.
        stride: Days from the start of a window to the next.
    """

    context: PositiveInt = 180
    horizon: PositiveInt = 365
    stride: PositiveInt = 61


class NetworkConfig(Config):
    """The network; see :class:`kernels.lstm.LSTMSettings`.

    Attributes:
        variant: How the static features enter the recurrence.
        hidden: Size of h and c.
        embedding: Size of the static embedding, and of each slot.
        attention: Size of queries and keys.
        layer_norm: Layer normalization in the recurrence.
        normalize_cell: With it, also of the cell state.
        input_norm: Batch normalization of the dynamic features.
        longest: Days of the longest memory, for chrono initialization, or zero.
        initial_state: The static features also make the first state.
        static_hidden: Width of the static network.
        static_layers: Its hidden layers.
        static_norm: Batch normalization in it.
        autoregressive: The fluxes of the day before are inputs.
        dropout: Share of hidden units that the head does not see, in training.
        head: For fluxes that add up, ``carbon`` (process model) or ``exchange`` (towers);
            ``linear`` for independent ones.
        head_hidden: Width of a hidden layer in the carbon head, which the static features scale and
            shift, or zero for none.
        site_levels: The static features also set the levels of the carbon head's outputs.
    """

    variant: Variant = "film"
    hidden: PositiveInt = 64
    embedding: PositiveInt = 16
    attention: PositiveInt = 16
    layer_norm: bool = False
    normalize_cell: bool = True
    input_norm: bool = False
    longest: NonNegativeInt = 0
    initial_state: bool = True
    static_hidden: PositiveInt = 64
    static_layers: PositiveInt = 1
    static_norm: bool = False
    autoregressive: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    head: Literal["linear", "carbon", "exchange"] = "carbon"
    head_hidden: NonNegativeInt = 0
    site_levels: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "NetworkConfig":
        if 0 < self.longest <= 2:
            raise ValueError(f"longest must be 0 or more than 2 days, found {self.longest}")
        if self.head != "carbon" and (self.site_levels or self.head_hidden):
            raise ValueError(f"head={self.head} needs site_levels=false and head_hidden=0")
        return self


class ForcingConfig(Config):
    """How much of the teacher an autoregressive network hears in training; never in validation.

    Attributes:
        decay: How the ratio falls, or ``constant``.
        ratio: The ratio, where it is constant.
        scale: Steps over which it falls, see :func:`kernels.lstm.scheduled_ratio`.
        coin: Who flips: each sample, or the batch as one.
    """

    decay: Literal["constant", "linear", "exponential", "inverse_sigmoid"] = "inverse_sigmoid"
    ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    scale: PositiveFloat = 200.0
    coin: Literal["sample", "batch"] = "sample"


class ObjectiveConfig(Config):
    """What errors are divided by before they are squared: the deviation of each flux.

    Attributes:
        deviation: Over all training days of all sites, or of each site by itself, so that all
            sites count alike.
        floor: With ``site``, the share of the deviation over all sites that is added.
        baseline: What the network corrects: nothing, or the quadratic regression on the weather
            of the day; each year of training by one that was fitted without it.
        penalty: Of the regression.
    """

    deviation: Literal["all", "site"] = "site"
    floor: NonNegativeFloat = 0.1
    baseline: Literal["none", "regression"] = "none"
    penalty: NonNegativeFloat = 0.03


class EvaluationConfig(Config):
    """What networks are validated and tested on: free runs.

    Attributes:
        horizon: Days of a forecast; the windows of a test follow each other without a gap.
        batch: Windows at once.
        validation: Windows that training is validated on, at most.
        sites: Sites of which series are drawn.
        drift_years: Years of one more free run on every unseen site, by whose end the sum of its
            NEP is judged, or zero for none; with ``split.kind=site`` alone.
    """

    horizon: PositiveInt = 365
    batch: PositiveInt = 256
    validation: PositiveInt = 128
    sites: PositiveInt = 3
    drift_years: NonNegativeInt = 0

    @property
    def drift_ends(self) -> list[int]:
        """Days from the start of that run to the end of each of its years."""
        return [round(365.25 * (year + 1)) for year in range(self.drift_years)]


class StageResources(Config):
    """What one member of each stage asks of Slurm."""

    simulate: Resources = Resources()
    prepare: Resources = Resources()
    train: Resources = Resources()
    collect: Resources = Resources()


class LstmConfig(SearchedConfig):
    """The LSTM job.

    Attributes:
        sites: Of the process model, where ``data`` says so.
    """

    sweep: dict[str, JsonValue] = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    sites: SitesConfig = SitesConfig()
    split: SplitConfig = SplitConfig()
    windows: WindowsConfig = WindowsConfig()
    network: NetworkConfig = NetworkConfig()
    forcing: ForcingConfig = ForcingConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig(project="yaoki-lstm")
    resources: StageResources = StageResources()

    @property
    def drifts(self) -> bool:
        """Whether drift is tested: only of simulated sites of which nothing was trained on."""
        unseen = self.split.kind == "site" and not self.data.measured
        return self.evaluation.drift_years > 0 and unseen

    @model_validator(mode="after")
    def _fits(self) -> "LstmConfig":
        self._check_head()
        if not self.data.measured:  # how long towers' records are is known once they are read
            self._check_days()
            self._check_sites()
        # The generator of a batch's coin must not know how many samples dropout has drawn for.
        if self.forcing.coin == "batch" and self.network.dropout:
            raise ValueError("forcing.coin=batch needs network.dropout=0; take coin=sample")
        self._check_sweep(SWEPT, SEARCHED)
        return self

    def _check_head(self) -> None:
        wrong = "carbon" if self.data.measured else "exchange"
        if self.network.head == wrong:
            raise ValueError(
                f"network.head={wrong} with data.source={self.data.source}: expected exchange or "
                "linear for towers (GPP, RECO, NEE), carbon or linear for the process model"
            )
        if self.network.head == "carbon" and self.objective.baseline != "none":
            raise ValueError("network.head=carbon is for whole fluxes; with a baseline take linear")

    def _check_days(self) -> None:
        """Make sure that one window fits into training and one into validation and test."""
        days, kind = self.sites.days, self.split.kind
        seen, ahead = self.windows.context, self.evaluation.horizon
        if self.drifts:
            ahead = max(ahead, self.evaluation.drift_ends[-1])
        first, second = self._cuts()
        warm = 365 * self.split.warm_years
        room = {
            "site": (days, days - seen),
            "warm_site": (warm, days - warm),
        }.get(kind, (first, min(second - first, days - second)))
        needed = (seen + self.windows.horizon, ahead)
        for part, has, needs in zip(("training", "test"), room, needed, strict=True):
            if has < needs:
                raise ValueError(
                    f"split.kind={kind} leaves {has} days for a window of {part}, which has "
                    f"{needs}; shorten windows, evaluation.horizon or .drift_years, or raise "
                    "sites.years"
                )

    def _cuts(self) -> tuple[int, int]:
        """First day of validation and of test of simulated sites that are split by days."""
        until, test = self.split.train_until, self.split.test_from
        if self.split.kind != "dates" or until is None or test is None:
            return self.split.cuts(self.sites.days)
        start = date(self.sites.first_year, 1, 1)
        return (until - start).days + 1, (test - start).days

    def _check_sites(self) -> None:
        count, shares = self.sites.count, (self.split.validation, self.split.test)
        held_out = sum(max(1, round(share * count)) for share in shares)
        if self.split.kind in ("site", "warm_site") and held_out >= count:
            raise ValueError(f"{count} sites, {held_out} of them held out, leave none for training")


def stages(config: LstmConfig) -> list[StagePlan]:
    """The arrays of the job, in order.

    Raises:
        ConfigError: The search needs Optuna, which is not installed.
    """
    ask, here = config.resources, "jobs.lstm"
    if config.data.measured:
        sites = [StagePlan("prepare", f"{here}.towers:prepare", 1, ask.prepare)]
    else:
        shards = config.sites.count // config.sites.per_shard
        sites = [
            StagePlan("simulate", f"{here}.sites:simulate", shards, ask.simulate),
            StagePlan("prepare", f"{here}.sites:prepare", 1, ask.prepare),
        ]
    work, members = f"{here}.training:train", config.members
    if config.search.adaptive:
        require_optuna()
        work = f"{here}.searching:search"
        members = min(config.search.workers, config.search.trials)
    return [
        *sites,
        StagePlan("train", work, members, ask.train),
        StagePlan("collect", f"{here}.collection:collect", 1, ask.collect, "end"),
    ]
