"""Searches: spaces of values, trials drawn from them at random or as a study proposes.

Settings and space are plain Python. :mod:`pipelines.search.study` needs Optuna, which is optional.
"""

from pipelines.search.settings import SearchConfig
from pipelines.search.space import Choice, Range, Space, check_space, draw, read_space
from pipelines.search.trials import (
    TRIALS,
    SearchError,
    State,
    Trial,
    begun_trials,
    ranked,
    trial_member,
)

__all__ = [
    "TRIALS",
    "Choice",
    "Range",
    "SearchConfig",
    "SearchError",
    "Space",
    "State",
    "Trial",
    "begun_trials",
    "check_space",
    "draw",
    "ranked",
    "read_space",
    "trial_member",
]
