"""The study of an adaptive search: which trial comes next, and which ones are not worth going on.

The journal on the shared disk is all that workers have in common. What is decided on (the point of
a trial, whether it is pruned) is decided on a copy of the study in memory, and is then one write to
the journal, so that a worker killed at any moment has decided it or has not. A trial is claimed
with its parameters and its worker in one record: it is nobody's for no moment, and the worker that
comes back finds it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from cluster.records.files import unfenced
from pipelines.search.journal import Journal
from pipelines.search.settings import SearchConfig
from pipelines.search.space import Axis, Choice, Space
from pipelines.search.trials import SearchError, State, Trial
from pipelines.seeds import derived_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it tells of each copy in memory

#: What an unreadable record makes of Optuna's replay.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Verdict:
    """What is to become of a trial after a validation; nothing of it has been written.

    Attributes:
        number: Of the trial.
        epoch: Of the validation.
        value: Of the validation.
        steps: That the trial has taken.
        pruned: Whether it ends here.
        notes: What the pruner wants to remember of the trial.
    """

    number: int
    epoch: int
    value: float
    steps: int
    pruned: bool
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Epochs:
    """Epochs of a trial: to the first validation, and in all."""

    first: int
    most: int


class Study:
    """A study in a journal; each method sees what all workers have written before.

    Args:
        path: The journal.
        ask: How it searches.
        space: What is searched.
        seed: From which the sampler's seeds follow, one a trial.
        epochs: Of each trial, which are what a pruner saves.
        fence: Called before anything is written; it raises where another attempt works here.

    Raises:
        SearchError: The journal is damaged.
    """

    def __init__(
        self,
        path: Path,
        ask: SearchConfig,
        space: Space,
        seed: int,
        epochs: Epochs,
        fence: Callable[[], None] = unfenced,
    ) -> None:
        self.ask, self.seed, self.epochs = ask, seed, epochs
        self._axes = {name: distribution(name, axis) for name, axis in space.items()}
        self._journal = Journal(path, fence)
        try:
            self._storage = JournalStorage(self._journal)
            self._name = path.parent.name
            self._id = self._open()
        except _DAMAGE as error:
            raise self._damaged(error) from error

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        try:
            return [_plain(frozen) for frozen in self._frozen()]
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def claim(self, worker: int) -> Trial | None:
        """The trial that a worker goes on with: its own that has not ended, or a new one.

        None where all have been taken.
        """
        with self._journal.turn():
            trials = self.trials
            for trial in trials:
                if trial.state is State.RUNNING and trial.worker == worker:
                    return trial
            if len(trials) >= self.ask.trials:
                return None
            self._begin(worker)
            return self.trials[-1]

    def judge(self, trial: Trial, epoch: int, value: float, steps: int, last: bool) -> Verdict:
        """What is to become of a trial; writes nothing.

        Args:
            trial: The trial.
            epoch: Epochs done.
            value: Their validation.
            steps: Steps done.
            last: Whether it has come to its end, where nothing is left to prune.
        """
        if last or self.ask.pruner == "none":
            return Verdict(trial.number, epoch, value, steps, False, {})
        memory, storage = self._copy()
        at = memory.trials[trial.number]
        storage.set_trial_intermediate_value(at._trial_id, epoch, value)
        pruned = memory.pruner.prune(memory, memory.trials[trial.number])
        after = memory.trials[trial.number].system_attrs
        notes = {name: note for name, note in after.items() if name not in at.system_attrs}
        return Verdict(trial.number, epoch, value, steps, pruned, notes)

    def report(self, verdict: Verdict) -> None:
        """Write down a validation and what became of the trial, in one."""
        number, trial_id = verdict.number, self._trial_id(verdict.number)
        with self._journal.together():
            self._storage.set_trial_intermediate_value(trial_id, verdict.epoch, verdict.value)
            for name, note in verdict.notes.items():
                self._storage.set_trial_system_attr(trial_id, name, note)
            if verdict.pruned:
                self._end(number, TrialState.PRUNED, verdict.value, {"steps": verdict.steps})

    def complete(self, number: int, value: float, steps: int) -> None:
        """Write down the objective of a trial that has come to its end."""
        with self._journal.together():
            self._end(number, TrialState.COMPLETE, value, {"steps": steps})

    def give_up(self, number: int, why: str, steps: int) -> None:
        """Write down that the parameters of a trial are impossible, which the sampler learns."""
        # To Optuna it is pruned without a value, the worst there is; failed ones it overlooks.
        with self._journal.together():
            self._end(number, TrialState.PRUNED, None, {"steps": steps, "why": why})

    def _open(self) -> int:
        with self._journal.turn():
            if not self._storage.get_all_studies():
                minimize = [optuna.study.StudyDirection.MINIMIZE]
                self._storage.create_new_study(minimize, self._name)
            study = self._storage.get_all_studies()[0]
            self._name = study.study_name  # the run may have been moved
            return int(study._study_id)

    def _begin(self, worker: int) -> None:
        memory, _ = self._copy()
        number = len(memory.trials)
        sampler_seed = derived_seed(self.seed, "sampler", number) % 2**32
        memory.sampler = optuna.samplers.TPESampler(
            seed=sampler_seed, n_startup_trials=self.ask.startup
        )
        told = {"worker": worker, "sampler_seed": sampler_seed}
        proposed = create_trial(
            state=TrialState.RUNNING,
            params=memory.ask(self._axes).params,
            distributions=self._axes,
            user_attrs=told,
        )
        self._storage.create_new_trial(self._id, proposed)

    def _end(self, number: int, state: TrialState, value: float | None, told: Any) -> None:
        trial_id = self._trial_id(number)
        for name, note in told.items():
            self._storage.set_trial_user_attr(trial_id, name, note)
        values = None if value is None else [value]
        self._storage.set_trial_state_values(trial_id, state, values)

    def _copy(self) -> tuple[optuna.Study, InMemoryStorage]:
        """The study in memory, where sampler and pruner may write as they like."""
        storage = InMemoryStorage()
        # By the same name: Hyperband's brackets follow from it.
        study = optuna.create_study(storage=storage, study_name=self._name, pruner=self._pruner())
        study.add_trials(self._frozen())
        return study, storage

    def _pruner(self) -> BasePruner:
        first, most = self.epochs.first, self.epochs.most
        if self.ask.pruner == "hyperband":
            return HyperbandPruner(first, max(first, most))
        return MedianPruner(n_startup_trials=self.ask.startup)

    def _frozen(self) -> list[FrozenTrial]:
        try:
            # Uncopied, for replay never changes a trial, but puts another in its place.
            return list(self._storage.get_all_trials(self._id, deepcopy=False))
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _trial_id(self, number: int) -> int:
        found: int = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        return found

    def _damaged(self, error: Exception) -> SearchError:
        return SearchError(
            f"{self._journal.path}: expected the journal of a search, but it cannot be replayed "
            f"({error!r}). Put back a copy of it, or start the search in another directory with "
            "--runs."
        )


def distribution(path: str, axis: Axis) -> BaseDistribution:
    """An axis in Optuna's words.

    Raises:
        ValueError: It offers what Optuna cannot keep.
    """
    if isinstance(axis, Choice):
        scalars = [v for v in axis.values if v is None or isinstance(v, str | int | float)]
        if len(scalars) < len(axis.values):
            raise ValueError(f"{path}: expected numbers, texts, true, false or null to choose")
        return CategoricalDistribution(scalars)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=axis.step)
    return FloatDistribution(float(axis.low), float(axis.high), log=axis.log)


def _plain(frozen: FrozenTrial) -> Trial:
    told, state = frozen.user_attrs, State[frozen.state.name]
    if state is State.PRUNED and "why" in told:
        state = State.FAILED
    return Trial(
        frozen.number,
        frozen.params,
        state,
        frozen.value if state is State.COMPLETE else None,
        frozen.intermediate_values,
        told["worker"],
        *(() if state is State.RUNNING else (told["steps"], told.get("why", ""))),
    )
