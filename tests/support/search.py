"""Adaptive searches whose trials cost nothing: a parabola, approached step by step."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.records.files import unfenced
from pipelines.search import SearchConfig, Trial, read_space
from pipelines.search.study import Epochs, Study
from pipelines.search.working import HopelessError, Worker

SPACE = read_space(
    {"x": {"low": -4.0, "high": 4.0}, "n": {"low": 1, "high": 8}, "kind": ["even", "odd", "none"]}
)
#: Epochs of two steps each.
EPOCHS = 9


class Killed(BaseException):
    """As if the process had been: nothing else happens."""


def study(path: Path, fence: Callable[[], None] = unfenced, trials: int = 12, **ask: Any) -> Study:
    """A study of the parabola; every test process opens its own."""
    settings = SearchConfig(method="adaptive", trials=trials, startup=3, **ask)
    return Study(path / "search.journal", settings, SPACE, 5, Epochs(1, EPOCHS), fence)


class Parabola:
    """Trials of the space above; what is kept of them lies in a dictionary.

    Args:
        kept: Outcomes by number.
        begun: Numbers of the trials that were begun, as often as they were.
    """

    def __init__(self, kept: dict[int, Any], begun: list[int]) -> None:
        self.kept, self.begun = kept, begun

    def begin(self, trial: Trial) -> "Descent":
        """Refuse one kind for large numbers."""
        self.begun.append(trial.number)
        if trial.point["kind"] == "none" and int(str(trial.point["n"])) > 6:
            raise HopelessError("n is too large for none")
        return Descent(trial.point)

    def keep(self, trial: Trial, running: Any) -> None:
        """Keep the height that was reached, and how."""
        self.kept[trial.number] = [trial.point, running.height, running.trace]

    def leave(self, trial: Trial, why: str) -> None:
        """Keep why not."""
        self.kept[trial.number] = [trial.point, why]


class Descent:
    """One trial."""

    def __init__(self, point: Mapping[str, Any]) -> None:
        self.point, self.height = point, 40.0 * point["n"]
        self.trace: list[float] = []
        self.steps_done, self.steps_total, self.microbatch = 0, 2 * EPOCHS, 8
        self.validation: tuple[int, float] | None = None
        self.closed = False

    def limit_microbatch(self, limit: int) -> None:
        """Less of it."""
        self.microbatch = limit

    def step(self) -> None:
        """A step towards the parabola; one in ten trials meets a pole."""
        assert not self.closed
        self.steps_done += 1
        self.height += 0.3 * (self.point["x"] ** 2 + self.point["n"] - self.height)
        self.trace.append(self.height)
        epoch, rest = divmod(self.steps_done, 2)
        self.validation = None if rest else (epoch, self.height)
        if self.steps_done == 5 and self.point["kind"] == "odd" and self.point["x"] > 3:
            raise HopelessError("a pole")
        if self.steps_done == self.steps_total and self.point["x"] < -3.5:
            self.validation = epoch, math.inf

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"height": self.height, "trace": list(self.trace), "steps": self.steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back."""
        self.height, self.trace = state["height"], list(state["trace"])
        self.steps_done = state["steps"]

    def close(self) -> None:
        """No step may follow."""
        self.closed = True


def go_on(worker: Worker[Descent]) -> bool:
    """Take a step, if there is one left, as the step loop does."""
    if worker.steps_done >= worker.steps_total:
        return False
    worker.step()
    return True


def search(path: Path, kept: dict[int, Any], **ask: Any) -> Study:
    """Search with one worker that nothing befalls."""
    found = study(path, **ask)
    worker = Worker(found, 0, Parabola(kept, []))
    while go_on(worker):
        pass
    return found
