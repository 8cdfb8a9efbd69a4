"""Stage ``train``: each member trains one network, tests it, and commits what it found."""

from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster import Attempt, Member
from jobs.lstm.config import LstmConfig
from jobs.lstm.drift import drifted
from jobs.lstm.evaluation import commit, free_run, tested
from jobs.lstm.samples import Batch, Samples
from jobs.lstm.sites import read_records
from jobs.outputs import publish_weights, resume, tracker, weights_path
from kernels.lstm import FluxScale, LSTMSettings, StaticDynamicLSTM, scheduled_ratio
from pipelines.fluxes import FluxError, FluxRecords, Normalizer, windows
from pipelines.fluxes.forecasts import Windows, cut, forecast_windows
from pipelines.seeds import derived_seed, generator
from pipelines.training.guard import Guard, Note
from pipelines.training.loop import Trainer, make_deterministic


class Forecasting:
    """The objective: squared errors of predicted fluxes, divided by the deviations.

    Args:
        samples: What the member reads.
        seed: Of this member.
        network: What is trained.

    Raises:
        FluxError: There are fewer windows than a batch takes.
    """

    def __init__(self, samples: Samples, seed: int, network: StaticDynamicLSTM) -> None:
        self.samples, self.seed, self.network = samples, seed, network
        self.config = samples.config
        ask, split = self.config.windows, samples.split
        found = windows(split.training, ask.context, ask.horizon, ask.stride)
        self.windows = found[self._judged(found, ask.horizon)]
        if len(self.windows) < self.config.training.batch:
            raise FluxError(
                f"training.batch is {self.config.training.batch}, but there are "
                f"{len(self.windows)} windows; lower it, or windows.stride"
            )
        ahead = self.config.evaluation.horizon
        held_out = forecast_windows(split.validation, ask.context, ahead)
        held_out = held_out[self._judged(held_out, ahead)]
        if not len(held_out):
            raise FluxError("no flux is known on the days for validation; split elsewhere")
        self.validation = thinned(held_out, self.config.evaluation.validation)

    def _judged(self, where: Windows, horizon: int) -> NDArray[np.bool_]:
        """Windows with a flux to compare with on one of their predicted days at least."""
        known = np.isfinite(self.samples.records.fluxes)
        found = cut(known, where, self.config.windows.context, horizon)
        return np.asarray(found.any(axis=(1, 2)))

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch; what is left over waits for another."""
        return len(self.windows) // self.config.training.batch

    def draw(self, step: int) -> Batch:
        """The windows of a step: each comes at most once an epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        count = self.config.training.batch
        order = torch.randperm(len(self.windows), generator=generator(self.seed, "order", epoch))
        rows = self.windows[order[place * count : (place + 1) * count].numpy()]
        return self.samples.batch(rows, self.config.windows.horizon, step)

    def losses(self, batch: Batch, part: slice) -> Tensor:
        """Mean squared error over days and fluxes, in deviations: one a window."""
        some = batch.part(part, _device(self.network))
        past, ahead = self.config.windows.context, slice(self.config.windows.context, None)
        predicted = self.network(
            some.dynamic[:, :past],
            some.static,
            some.dynamic[:, ahead],
            some.fluxes[:, ahead],
            some.fluxes[:, :past],
            teacher_forcing=self.forcing(batch.step),
            coin=self.config.forcing.coin,
            generator=self._coins(batch.step, part),
        )
        return scaled_errors(predicted.outputs, some, past)

    def forcing(self, step: int) -> float:
        """How much of the teacher is heard in a step."""
        ask = self.config.forcing
        if not self.config.network.autoregressive:
            return 0.0
        if ask.decay == "constant":
            return ask.ratio
        decay: Literal["linear", "exponential", "inverse_sigmoid"] = ask.decay
        return scheduled_ratio(step, ask.scale, decay)

    def validate(self, network: nn.Module) -> float:
        """The same error of free runs over validation windows."""
        outputs, _ = free_run(cast(StaticDynamicLSTM, network), self.samples, self.validation)
        truth = self.samples.batch(self.validation, self.config.evaluation.horizon)
        errors = scaled_errors(outputs, truth, self.config.windows.context)
        return float(errors.double().mean())

    def _coins(self, step: int, part: slice) -> torch.Generator:
        """Coins and dropout of a grain: a function of the step and the grain alone."""
        if self.config.forcing.coin == "batch":  # all grains of a batch hear the same
            return generator(self.seed, "coin", step)
        return generator(self.seed, "coins", step, part.start)


def scaled_errors(outputs: Tensor, truth: Batch, context: int) -> Tensor:
    """Mean squares of the errors of predicted days (B, horizon, F), in deviations: (B).

    Gaps in the truth do not count; a window of nothing else is zero.
    """
    known = truth.known[:, context:]
    error = (outputs - truth.fluxes[:, context:]) / truth.deviation.unsqueeze(1)
    squares = torch.where(known, error.square(), 0.0).sum(dim=(1, 2))
    return squares / known.sum(dim=(1, 2)).clamp_min(1)


def thinned(found: Windows, most: int) -> Windows:
    """At most so many windows, evenly chosen."""
    places = np.linspace(0, len(found) - 1, min(most, len(found)))
    return np.asarray(found[places.round().astype(int)])


def untrained(
    config: LstmConfig, records: FluxRecords, normalizer: Normalizer
) -> StaticDynamicLSTM:
    """The network of a configuration."""
    values = config.network.model_dump()
    if config.network.variant.startswith("attention_film_"):
        modulation = config.network.variant.removeprefix("attention_film_")
        values |= {"variant": "attention_film", "modulation": modulation}
    if config.objective.baseline != "none" and config.network.head == "exchange":
        values |= {"head": "anomaly"}  # what is left of a flux may be negative
    settings = LSTMSettings(
        dynamic=len(records.dynamic_names),
        static=len(records.static_names),
        outputs=len(records.flux_names),
        **values,
    )
    fluxes = normalizer.fluxes
    scale = FluxScale(torch.tensor(fluxes.mean), torch.tensor(fluxes.deviation))
    return StaticDynamicLSTM(settings, scale)


def train(config: LstmConfig, member: Member, attempt: Attempt) -> dict[str, float]:
    """Train one network, test it free-running, and commit; returns its validation and its skips."""
    mine = config.member_config(member.index)
    seed = derived_seed(config.seed, "train", config.seed_number(member.index))
    make_deterministic(config.resources.train.cpus, seed)
    samples = Samples(mine, read_records(mine, member.run))
    with tracker(config.tracking, config, member, attempt) as tracking:
        trainer = trainer_of(samples, seed, member, tracking.record, attempt)
        resume(attempt, trainer, tracking)
        for _ in attempt.steps(trainer):
            trainer.step()
    keep(config, member, attempt, trainer, samples)
    return {"best_validation": trainer.best, "skipped": trainer.skipped}


def trainer_of(
    samples: Samples, seed: int, member: Member, note: Note, attempt: Attempt
) -> Trainer:
    """The training of a network from the start.

    Args:
        samples: What it reads; their configuration is the network's.
        seed: All of it follows from it.
        member: Where batches that are skipped are kept.
        note: Told of every epoch, and of steps that are skipped.
        attempt: Whose steps these are.

    Raises:
        FluxError: There are fewer windows than a batch takes.
    """
    network = untrained(samples.config, samples.records, samples.normalizer)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    objective, ask = Forecasting(samples, seed, network), samples.config.training
    guard = Guard(ask.max_skipped, directory=member.directory / "skipped", note=note)
    return Trainer(network, objective, ask, note, attempt, guard)


def keep(
    config: LstmConfig, member: Member, attempt: Attempt, trainer: Trainer, samples: Samples
) -> None:
    """Write the weights of a network that is trained, test it, and commit."""
    final = cast(StaticDynamicLSTM, trainer.final_network)
    publish_weights(final, weights_path(member.run, member.index))
    samples.normalizer.save(weights_path(member.run, member.index).with_suffix(".json"))
    parameters = sum(parameter.numel() for parameter in final.parameters())
    found = tested(final, samples) | drifted(final, samples)
    commit(config, member, attempt, samples.records, found, {"parameters": parameters})


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
