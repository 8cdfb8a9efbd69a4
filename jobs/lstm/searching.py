"""Stage ``train`` of an adaptive search: each member trains trials until there are no more."""

from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cluster import Attempt, Member
from jobs.lstm.config import LstmConfig
from jobs.lstm.evaluation import commit, layout
from jobs.lstm.samples import Samples
from jobs.lstm.sites import read_records
from jobs.lstm.training import keep, trainer_of
from jobs.outputs import tracker
from pipelines.config import ConfigError
from pipelines.fluxes import FluxError, FluxRecords
from pipelines.search import Trial, read_space, trial_member
from pipelines.search.study import Epochs, Study
from pipelines.search.working import HopelessError, Worker
from pipelines.seeds import derived_seed
from pipelines.training.loop import NonFiniteError, Trainer, make_deterministic


def search(config: LstmConfig, member: Member, attempt: Attempt) -> dict[str, int]:
    """Train trials until there are no more; returns how many of them were this member's."""
    study, task = open_study(config, member.run, attempt), Task(config, member, attempt)
    microbatch = config.training.largest_microbatch
    with closing(Worker(study, member.index, task, microbatch)) as worker:
        attempt.restore(worker)
        for _ in attempt.steps(worker):
            worker.step()
    return {"trials": sum(trial.worker == member.index for trial in study.trials)}


def open_study(config: LstmConfig, run: Path, attempt: Attempt | None = None) -> Study:
    """The study of a run, for an attempt to write to or else to be read.

    Raises:
        SearchError: Its journal is damaged.
    """
    ask = config.training
    epochs = Epochs(min(ask.validate_every, ask.epochs), ask.epochs)
    fences = {} if attempt is None else {"fence": attempt.checkpoints.fence}
    path, space = journal_path(run), read_space(config.sweep)
    return Study(path, config.search, space, config.seed, epochs, **fences)


def journal_path(run: Path) -> Path:
    """Where the journal lies in the run directory."""
    return run / "search.journal"


class Task:
    """Trials of the job: networks with the values of a point, all from the same seed.

    Args:
        config: The job.
        member: The worker.
        attempt: Its attempt.
    """

    def __init__(self, config: LstmConfig, member: Member, attempt: Attempt) -> None:
        self.config, self.run, self.attempt = config, member.run, attempt

    @cached_property
    def records(self) -> FluxRecords:
        """Of all sites."""
        return read_records(self.config, self.run)

    def begin(self, trial: Trial) -> "Training":
        """Start to train a trial's network.

        Raises:
            HopelessError: Its point is no configuration, or has batches larger than the data.
        """
        seed = derived_seed(self.config.seed, "train", 0)
        make_deterministic(self.config.resources.train.cpus, seed)
        try:
            mine = self.config.at_point(trial.point)
            samples = Samples(mine, self.records)
            return Training(self.config, samples, seed, self._member(trial), self.attempt)
        except (ConfigError, FluxError) as error:
            raise HopelessError(str(error)) from error

    def keep(self, trial: Trial, running: "Training") -> None:
        """Publish and test its network, and commit it to the ensemble."""
        member, trainer = self._member(trial), running.trainer
        keep(self.config, member, self.attempt, trainer, running.samples)

    def leave(self, trial: Trial, why: str) -> None:
        """Commit that it was not tested."""
        untested = {
            spec.name: np.full(spec.shape, np.nan, np.float32)
            for spec in layout(self.config, self.records)
        }
        told = {"untested": why}
        commit(self.config, self._member(trial), self.attempt, self.records, untested, told)

    def _member(self, trial: Trial) -> Member:
        return trial_member(self.run, trial.number)


class Training:
    """The training of one trial's network, with a metrics log of its own.

    Raises:
        FluxError: There are fewer windows than a batch takes.
    """

    def __init__(
        self, config: LstmConfig, samples: Samples, seed: int, member: Member, attempt: Attempt
    ) -> None:
        self.samples, self._attempt = samples, attempt
        self.validation: tuple[int, float] | None = None
        self._tracking = tracker(config.tracking, config, member, attempt)
        try:
            made = trainer_of(samples, seed, member, self._note, attempt)
        except BaseException:
            self._tracking.close()
            raise
        self.trainer: Trainer = made
        self._begun = False

    @property
    def steps_done(self) -> int:
        """Steps done."""
        return self.trainer.steps_done

    @property
    def steps_total(self) -> int:
        """Steps to do."""
        return self.trainer.steps_total

    @property
    def microbatch(self) -> int:
        """Samples taken at once."""
        return self.trainer.microbatch

    def limit_microbatch(self, limit: int) -> None:
        """Take at most so many from now on."""
        self.trainer.limit_microbatch(limit)

    def step(self) -> None:
        """One step.

        Raises:
            HopelessError: Too many steps were not finite.
        """
        if not self._begun and self._attempt.number > 1:
            self._tracking.rewind(self.steps_done)
        self._begun, self.validation = True, None
        try:
            self.trainer.step()
        except NonFiniteError as error:
            raise HopelessError(str(error)) from error

    def state_dict(self) -> Mapping[str, Any]:
        """Everything that the next step depends on."""
        return self.trainer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.trainer.load_state_dict(state)

    def close(self) -> None:
        """Close the metrics."""
        self._tracking.close()

    def _note(self, step: int, values: Mapping[str, Any]) -> None:
        self._tracking.record(step, values)
        if "validation" in values:
            self.validation = int(values["epoch"]), float(values["validation"])
