"""How the points of a sweep are chosen, as a configuration says it; imports no Optuna."""

from importlib.util import find_spec
from typing import Literal

from pydantic import PositiveInt

from pipelines.config import Config, ConfigError


class SearchConfig(Config):
    """How the points of a sweep are chosen.

    Attributes:
        method: ``grid`` for every combination, ``random`` for independent draws, ``adaptive`` for
            trials that follow from those before them (Optuna's tree-structured Parzen estimator).
        trials: Points to try; of no account for a grid.
        workers: With ``adaptive``, members that take trials one after another.
        startup: With ``adaptive``, trials drawn at random before the sampler proposes any, and
            those that must be complete before the median prunes.
        pruner: With ``adaptive``, what ends trials early: ``median``, ``hyperband`` or ``none``.
        objective: What is minimized: the ``last`` validation, which is that of the weights that
            are kept, or the ``best`` on the way.
    """

    method: Literal["grid", "random", "adaptive"] = "grid"
    trials: PositiveInt = 64
    workers: PositiveInt = 4
    startup: PositiveInt = 10
    pruner: Literal["none", "median", "hyperband"] = "median"
    objective: Literal["last", "best"] = "last"

    @property
    def adaptive(self) -> bool:
        """Whether members are workers that take trials."""
        return self.method == "adaptive"


def require_optuna() -> None:
    """Make sure that an adaptive search can run.

    Raises:
        ConfigError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise ConfigError(
            "search.method=adaptive: expected Optuna, which is not installed: "
            "\"pip install 'yaoki[search]'\" installs it; search.method=random needs none"
        )
