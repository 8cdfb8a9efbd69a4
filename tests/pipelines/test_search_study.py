"""Adaptive searches: trials are claimed once, ended once, and come to the same after any kill."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.search import EPOCHS, Descent, Killed, Parabola, go_on, search, study

from cluster.attempt import Resizable
from pipelines.search import Choice, SearchError, State, ranked
from pipelines.search.study import distribution
from pipelines.search.working import Worker

PRUNERS = ("none", "median", "hyperband")


@pytest.fixture(scope="module", params=PRUNERS)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search with a pruner that nothing befell, and what it kept."""
    kept: dict[int, Any] = {}
    # Brackets follow from the name of the study, which is that of its directory.
    path = tmp_path_factory.mktemp("whole") / "run"
    path.mkdir()
    return request.param, search(path, kept, pruner=request.param).trials, kept


def test_a_search_ends_with_every_trial_ended(twin: Any) -> None:
    pruner, trials, kept = twin
    states = {trial.state for trial in trials}
    assert [trial.number for trial in trials] == sorted(kept) == list(range(12))
    assert State.RUNNING not in states
    assert (State.PRUNED in states) == (pruner != "none")
    for trial in trials:
        if trial.state is State.COMPLETE:
            assert trial.value == kept[trial.number][1] == trial.reported[EPOCHS]
            assert trial.steps == 2 * EPOCHS
        if trial.state is State.PRUNED:
            assert trial.steps == 2 * max(trial.reported) < 2 * EPOCHS
            assert kept[trial.number][1] == "pruned"
        if trial.state is State.FAILED:
            assert kept[trial.number][1] == trial.why


@settings(max_examples=6, deadline=None)
@given(lives=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 30)), min_size=1, max_size=5))
def test_a_worker_killed_anywhere_ends_as_if_it_had_not_been(
    twin: Any, tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, int]]
) -> None:
    pruner, trials, kept = twin
    path = tmp_path_factory.mktemp("killed") / "run"
    path.mkdir()
    checkpoint: dict[str, Any] | None = None
    found: dict[int, Any] = {}
    begun: list[int] = []
    # Each life ends before a step, or in one, right before its so many-th write to the journal.
    for steps, writes in [*lives, (10**6, 10**6)]:
        countdown = itertools.count(writes, -1)

        def fence(countdown: "itertools.count[int]" = countdown) -> None:
            if next(countdown) == 0:
                raise Killed

        try:
            worker = Worker(study(path, fence, pruner=pruner), 0, Parabola(found, begun))
            if checkpoint is not None:
                worker.load_state_dict(checkpoint)
            for _ in range(steps):
                if not go_on(worker):
                    break
                if worker.steps_done % 7 == 3:
                    checkpoint = worker.state_dict()
        except Killed:
            continue
    assert study(path, pruner=pruner).trials == trials
    assert found == kept
    journal = (path / "search.journal").read_text().splitlines()
    values = [line.split('"trial_id"')[1] for line in journal if '"intermediate_value"' in line]
    assert len(values) == len(set(values))  # none is reported twice


def test_workers_share_trials_and_each_trial_comes_to_what_it_would_alone(tmp_path: Path) -> None:
    kept: dict[int, Any] = {}
    begun: list[list[int]] = [[], [], []]
    workers = [Worker(study(tmp_path), n, Parabola(kept, begun[n])) for n in range(3)]
    draw = random.Random(3)
    running = list(workers)
    while running:
        worker = draw.choice(running)
        if not go_on(worker):
            running.remove(worker)
    trials = study(tmp_path).trials
    assert sorted(itertools.chain(*begun)) == list(range(12))
    assert [sorted(t.number for t in trials if t.worker == n) for n in range(3)] == begun
    assert all(begun)
    for trial in trials:
        if trial.state is State.COMPLETE:
            alone = Descent(trial.point)
            while alone.steps_done < alone.steps_total:
                alone.step()
            assert kept[trial.number] == [trial.point, alone.height, alone.trace]


def test_a_trial_waits_for_its_worker_and_no_other_takes_it(tmp_path: Path) -> None:
    first, second = study(tmp_path, trials=2), study(tmp_path, trials=2)
    mine, other = first.claim(0), second.claim(1)
    assert mine is not None
    assert other is not None
    assert [mine.number, other.number] == [0, 1]
    assert study(tmp_path, trials=2).claim(0) == mine
    assert study(tmp_path, trials=2).claim(2) is None
    second.complete(1, 0.5, 3)
    assert second.claim(1) is None
    assert [(t.state, t.value) for t in first.trials] == [("running", None), ("complete", 0.5)]


def test_seeds_of_the_sampler_are_recorded_and_another_seed_draws_otherwise(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    trials = search(tmp_path / "a", {}).trials
    text = (tmp_path / "a" / "search.journal").read_text()
    assert text.count('"sampler_seed":') == len(trials)
    assert len({trial.point["x"] for trial in trials}) == len(trials)


def test_a_checkpoint_of_a_trial_that_the_journal_lost_is_one_clear_error(tmp_path: Path) -> None:
    worker = Worker(study(tmp_path), 0, Parabola({}, []))
    while worker.steps_done < 5:
        go_on(worker)
    state, path = worker.state_dict(), tmp_path / "search.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    with pytest.raises(SearchError, match=r"expected trial 0 with .* lost records"):
        Worker(study(tmp_path), 0, Parabola({}, [])).load_state_dict(state)


def test_a_machine_that_computes_otherwise_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(study(tmp_path), 0, Parabola({}, []))
    while worker.steps_done < 4:
        go_on(worker)
    state = worker.state_dict()
    state["training"] |= {"height": 1.0, "steps": 2}
    again = Worker(study(tmp_path), 0, Parabola({}, []))
    again.load_state_dict(state)
    while again.steps_done < 4:
        go_on(again)
    assert "epoch 2 was" in caplog.text
    assert study(tmp_path).trials[0].reported == worker.study.trials[0].reported


def test_a_limit_of_the_microbatch_holds_for_all_trials(tmp_path: Path) -> None:
    worker = Worker(study(tmp_path), 0, Parabola({}, []), microbatch=8)
    assert isinstance(worker, Resizable)
    assert worker.microbatch == 8
    worker.limit_microbatch(2)
    found = set()
    while go_on(worker):
        found.add(worker.microbatch)
    assert found == {2}


@pytest.mark.parametrize(("objective", "choose"), [("last", lambda v: v[-1]), ("best", min)])
def test_the_objective_is_the_last_validation_or_the_best(
    tmp_path: Path, objective: str, choose: Callable[[list[float]], float]
) -> None:
    trials = search(tmp_path, {}, objective=objective, pruner="none").trials
    complete = [trial for trial in trials if trial.state is State.COMPLETE]
    assert complete
    for trial in complete:
        assert trial.value == choose(list(trial.reported.values()))
    assert [t.value for t in ranked(trials)[: len(complete)]] == sorted(
        trial.value for trial in complete if trial.value is not None
    )


def test_choices_that_no_journal_can_keep_are_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected numbers, texts"):
        distribution("kind", Choice(([1, 2],)))
