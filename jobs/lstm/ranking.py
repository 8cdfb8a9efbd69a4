"""What a search of the LSTM job has found: its trials from the best on."""

import json
import math
from collections.abc import Sequence
from statistics import fmean

from cluster.records.files import write_atomic
from jobs.collecting import save_picture
from jobs.lstm.collected import Collected
from pipelines.figures.search import search_history, search_parameters
from pipelines.report import Fact, Measured, Picture, Section, Table, save_section
from pipelines.search import State, Trial, ranked, read_space

_YLABEL = "validation loss"


def save_search(found: Collected) -> None:
    """Write ``report/search.json``, and the part of the page about the search."""
    trials = trials_of(found)
    (found.run / "report").mkdir(exist_ok=True)
    save_trials(found, trials)
    save_section(found.run, "search", search_section(found, trials))


def trials_of(found: Collected) -> list[Trial]:
    """The trials of a run, the best first."""
    if found.config.search.adaptive:
        from jobs.lstm.searching import open_study  # brings Optuna

        return ranked(open_study(found.config, found.run).trials)
    trials = []
    for point, members in found.by_point:
        number = members[0].index // found.config.seeds
        last = found.config.search.objective == "last"
        value = fmean(m.validation if last else m.best_validation for m in members)
        ended = [row for member in members for row in member.rows if "loss" in row]
        state, kept = (State.COMPLETE, value) if math.isfinite(value) else (State.FAILED, None)
        steps = max(int(row["step"]) for row in ended)
        trials.append(Trial(number, point, state, kept, steps=steps))
    return ranked(trials)


def search_section(found: Collected, trials: Sequence[Trial]) -> Section:
    """The part of the page about the search; writes its pictures."""
    ask, best = found.config.search, trials[0]  # complete: there is none without a network
    counts = {state: sum(trial.state is state for trial in trials) for state in State}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    point = ", ".join(f"{path} {_short(value)}" for path, value in best.point.items())
    return Section(
        "Search",
        f"{ask.method}, {len(trials)} trials ({told}); minimized is the {ask.objective} validation "
        "of each network, a free run.",
        [Fact("Best trial", f"{best.number}: {best.value:.5g}", point)]
        if best.value is not None
        else [],
        _pictures(found, trials),
        [_table(trials)],
    )


def save_trials(found: Collected, trials: Sequence[Trial]) -> None:
    """Write ``report/search.json``: the trials from the best on, for a program to read."""
    ask = found.config.search
    record = {
        "method": ask.method,
        "objective": ask.objective,
        "seed": found.config.seed,
        "trials": [
            {
                "number": trial.number,
                "state": trial.state,
                "value": trial.value,
                "point": dict(trial.point),
                "epochs": max(trial.reported, default=None),
                "steps": trial.steps,
                "worker": trial.worker if ask.adaptive else None,
                "why": trial.why,
            }
            for trial in trials
        ],
    }
    path = found.run / "report" / "search.json"
    write_atomic(path, json.dumps(record, indent=1).encode())


def _pictures(found: Collected, trials: Sequence[Trial]) -> list[Picture]:
    space = read_space(found.config.sweep)
    drawn = [
        (
            "search-history",
            search_history(trials, _YLABEL),
            "Objective of every trial, and the best so far.",
            "Objective by number of the trial, with the best so far as a line.",
        ),
        (
            "search-parameters",
            search_parameters(trials, space, _YLABEL),
            "Objective against each parameter; pruned trials stand at their last validation.",
            "Objective against each parameter of the search, one panel each.",
        ),
    ]
    return [save_picture(found.run, *one) for one in drawn]


def _table(trials: Sequence[Trial]) -> Table:
    paths = list(trials[0].point)
    rows = [
        [
            trial.number,
            str(trial.state),
            None if trial.value is None else Measured(trial.value, f"{trial.value:.5g}"),
            max(trial.reported, default=None),
            trial.steps,
            *(_short(trial.point[path]) for path in paths),
            trial.why,
        ]
        for trial in trials
    ]
    columns = ["Trial", "State", "Objective", "Epochs", "Steps", *paths, "Why"]
    return Table("Trials", columns, rows, "From the best on.", filtered="State")


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
