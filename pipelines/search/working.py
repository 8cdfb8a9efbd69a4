"""A worker of an adaptive search: takes trials one after another until there are no more."""

import logging
import math
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from cluster.checkpoints import random_state
from pipelines.search.study import Study
from pipelines.search.trials import SearchError, State, Trial

_log = logging.getLogger(__name__)


class HopelessError(Exception):
    """The parameters of a trial are impossible: no network can be trained with them."""


class Running(Protocol):
    """The training of one trial."""

    @property
    def steps_done(self) -> int:
        """Steps done."""

    @property
    def steps_total(self) -> int:
        """Steps to do; it may change on the way."""

    @property
    def validation(self) -> tuple[int, float] | None:
        """Epochs done and their validation, where the last step ended with one."""

    @property
    def microbatch(self) -> int:
        """Samples taken at once."""

    def limit_microbatch(self, limit: int) -> None:
        """Take at most so many from now on."""

    def step(self) -> None:
        """One step; HopelessError where there can be none."""

    def state_dict(self) -> Mapping[str, Any]:
        """Everything that the next step depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""

    def close(self) -> None:
        """Let go of files."""


RunningT = TypeVar("RunningT", bound=Running)


class Task(Protocol[RunningT]):
    """What trials are to a workload. What it keeps of them may be asked for again after a kill."""

    def begin(self, trial: Trial) -> RunningT:
        """Start a trial: all that it comes to follows from its point alone.

        Raises:
            HopelessError: It cannot be.
        """

    def keep(self, trial: Trial, running: RunningT) -> None:
        """Keep what a trial came to that has taken all its steps."""

    def leave(self, trial: Trial, why: str) -> None:
        """Note that nothing is to be kept of a trial: ``pruned``, or why it failed."""


class Worker(Generic[RunningT]):
    """The work of one member: a work in the sense of the step loop.

    A step is one of a trial's training, the claim of a trial, or its end. The state is that of the
    trial at hand. A state of a trial that has ended since, as the journal knows, is passed over.

    Args:
        study: The study.
        number: The member's.
        task: What a trial is.
        microbatch: Samples that the first one will take at once.
    """

    def __init__(
        self, study: Study, number: int, task: Task[RunningT], microbatch: int = 1
    ) -> None:
        self.study, self.number, self.task = study, number, task
        self._microbatch = microbatch
        self.trial: Trial | None = None
        self.exhausted = False
        self._running: RunningT | None = None
        self._limit: int | None = None
        self._look()

    @property
    def steps_done(self) -> int:
        """Steps of all trials of this worker."""
        return self._before + (0 if self._running is None else self._running.steps_done)

    @property
    def steps_total(self) -> int:
        """Steps done, and those that may be to come: a fair share of what nobody has taken."""
        if self.exhausted:
            return self.steps_done
        left = total = self._usual
        if self._running is not None:
            total = self._running.steps_total
            left = total - self._running.steps_done
        share = math.ceil(self._untaken / self.study.ask.workers)
        return self.steps_done + max(1, left + share * total)

    @property
    def microbatch(self) -> int:
        """Samples taken at once; between trials, those of the one before."""
        if self._running is not None:
            self._microbatch = self._running.microbatch
        return self._microbatch

    def limit_microbatch(self, limit: int) -> None:
        """Take at most so many from now on, in the trials that follow too."""
        self._limit, self._microbatch = limit, min(limit, self._microbatch)
        if self._running is not None:
            self._running.limit_microbatch(limit)

    def step(self) -> None:
        """Go on by one step."""
        if self.trial is None:
            self._claim()
        elif self._running is None:
            self._begin(self.trial)
        elif self._running.steps_done >= self._running.steps_total:
            self._complete(self.trial, self._running)
        else:
            self._train(self.trial, self._running)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides the journal."""
        if self.trial is None or self._running is None:
            return {"trial": None, "point": {}, "training": {}}
        return {
            "trial": self.trial.number,
            "point": dict(self.trial.point),
            "training": dict(self._running.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            SearchError: The journal does not know its trial.
        """
        if state["trial"] is None:
            return
        known = {trial.number: trial for trial in self.study.trials}
        trial = known.get(state["trial"])
        if trial is None or dict(trial.point) != state["point"]:
            raise SearchError(
                f"expected trial {state['trial']} with {state['point']} in the journal of the "
                "search, as a checkpoint has it, found another or none. The journal has lost "
                "records: put back a copy of it, or start the search in another directory with "
                "--runs."
            )
        if trial.state is State.RUNNING:
            self.trial = trial
            self._begin(trial)
            if self._running is not None:
                self._running.load_state_dict(state["training"])

    def close(self) -> None:
        """Let go of the trial at hand, which stays this worker's."""
        if self._running is not None:
            self._running.close()

    def _look(self) -> None:
        """Look at what all workers have done."""
        trials = self.study.trials
        mine = [t.steps for t in trials if t.worker == self.number]
        self._before, self._usual = sum(mine), max(mine, default=1)
        self._untaken = max(0, self.study.ask.trials - len(trials))

    def _claim(self) -> None:
        # No trial knows what came before it, and neither does the last checkpoint.
        random_state.seed(self.study.seed)
        self.trial = self.study.claim(self.number)
        self.exhausted = self.trial is None
        self._look()

    def _begin(self, trial: Trial) -> None:
        try:
            self._running = self.task.begin(trial)
        except HopelessError as error:
            self._give_up(trial, str(error))
            return
        if self._limit is not None:
            self._running.limit_microbatch(self._limit)

    def _train(self, trial: Trial, running: RunningT) -> None:
        try:
            running.step()
        except HopelessError as error:
            self._give_up(trial, str(error))
            return
        if running.validation is not None:
            self._heed(trial, running, *running.validation)

    def _heed(self, trial: Trial, running: RunningT, epoch: int, value: float) -> None:
        """Report a validation, and end the trial where it is not worth going on."""
        if epoch in trial.reported:  # by an attempt before, which went on
            if repr(trial.reported[epoch]) != repr(value):
                _log.warning(
                    "trial %d: validation %r of epoch %d was %r before: this machine computes "
                    "otherwise than the one before. The first is kept.",
                    *(trial.number, value, epoch, trial.reported[epoch]),
                )
            return
        last = running.steps_done >= running.steps_total
        verdict = self.study.judge(trial, epoch, value, running.steps_done, last)
        if verdict.pruned:
            self.task.leave(trial, "pruned")
        self.study.report(verdict)
        if verdict.pruned:
            self._ended()
        else:
            self.trial = self.study.trials[trial.number]

    def _complete(self, trial: Trial, running: RunningT) -> None:
        value = trial.reported[max(trial.reported)]
        if self.study.ask.objective == "best":
            value = min(filter(math.isfinite, trial.reported.values()), default=value)
        if not math.isfinite(value):
            self._give_up(trial, f"its validation is {value}")
            return
        self.task.keep(trial, running)
        self.study.complete(trial.number, value, running.steps_done)
        self._ended()

    def _give_up(self, trial: Trial, why: str) -> None:
        self.task.leave(trial, why)
        steps = 0 if self._running is None else self._running.steps_done
        self.study.give_up(trial.number, why, steps)
        self._ended()

    def _ended(self) -> None:
        self.close()
        self.trial = self._running = None
        self._look()
