"""The journal of a search: whole records, torn ones, and two that write at once."""

import multiprocessing
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from support.search import Killed, search, study

from pipelines.search import SearchError, State
from pipelines.search.journal import Journal

RECORDS = st.lists(st.dictionaries(st.text(max_size=4), st.integers(), max_size=2), max_size=6)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=RECORDS, more=RECORDS, cut=st.integers(0, 400))
def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(
    tmp_path: Path, records: list[dict[str, int]], more: list[dict[str, int]], cut: int
) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    Journal(path).append_logs(records)
    path.write_bytes(path.read_bytes()[:cut])
    whole = records[: path.read_bytes().count(b"\n")]
    reader = Journal(path)
    assert list(reader.read_logs(0)) == whole
    Journal(path).append_logs(more)
    assert list(reader.read_logs(len(whole))) == more
    assert list(reader.read_logs(0)) == list(Journal(path).read_logs(0)) == whole + more


def test_what_belongs_together_is_written_at_once_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with journal.together():
        journal.append_logs([{"a": 1}])
        assert list(journal.read_logs(0)) == []
        journal.append_logs([{"b": 2}])
    with pytest.raises(TypeError, match="serializable"), journal.together():
        journal.append_logs([{"c": 3}, {"c": object()}])
    journal.append_logs([{"d": 4}])
    assert list(Journal(journal.path).read_logs(0)) == [{"a": 1}, {"b": 2}, {"d": 4}]


def test_a_fenced_attempt_writes_nothing(tmp_path: Path) -> None:
    def fence() -> None:
        raise Killed

    with pytest.raises(Killed):
        Journal(tmp_path / "journal", fence).append_logs([{"a": 1}])
    assert list(Journal(tmp_path / "journal").read_logs(0)) == []


@pytest.mark.parametrize("damage", [b"{nonsense}\n", b"[]\n", b'{"op_code": 4}\n'])
def test_a_damaged_line_is_one_clear_error(tmp_path: Path, damage: bytes) -> None:
    search(tmp_path, {}, trials=3)
    path = tmp_path / "search.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], damage, *lines[4:]]))
    with pytest.raises(SearchError, match=f"{re.escape(str(path))}.*put back a copy|replayed"):
        print(study(tmp_path).trials)


def test_a_study_cut_anywhere_is_read_or_goes_on_from_what_is_left(tmp_path: Path) -> None:
    ask: dict[str, Any] = {"trials": 4, "pruner": "none"}
    whole = search(tmp_path, {}, **ask).trials
    path = tmp_path / "search.journal"
    content = path.read_bytes()
    for cut in range(1, len(content), 467):
        path.write_bytes(content[:cut])
        left = study(tmp_path, **ask).trials
        assert [trial.point for trial in left] == [trial.point for trial in whole[: len(left)]]
        assert all(trial == whole[trial.number] for trial in left if trial.state != State.RUNNING)
        path.write_bytes(content[:cut])
        assert search(tmp_path, {}, **ask).trials == whole


def test_optuna_reads_it_with_its_own_backend(tmp_path: Path) -> None:
    found = search(tmp_path, {}).trials
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "search.journal")))
    theirs = optuna.load_study(study_name=tmp_path.name, storage=storage)
    assert [trial.params for trial in theirs.trials] == [trial.point for trial in found]
    assert theirs.best_trial.number == min(found, key=lambda t: (t.value is None, t.value)).number


def _append(path: Path, name: str, count: int) -> None:
    journal = Journal(path)
    for number in range(count):
        with journal.turn():
            seen = sum(1 for _ in journal.read_logs(0))
            journal.append_logs([{"by": name, "number": number, "seen": seen}])


def test_of_two_processes_each_sees_all_that_was_written_before(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    path = tmp_path / "journal"
    others = [spawn.Process(target=_append, args=(path, name, 60)) for name in "ab"]
    for other in others:
        other.start()
    for other in others:
        other.join()
    records = list(Journal(path).read_logs(0))
    assert [record["seen"] for record in records] == list(range(120))
    for name in "ab":
        assert [r["number"] for r in records if r["by"] == name] == list(range(60))
