"""Laws of calls laid down: every member makes its own, and what is shared is written once."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.calls import Call, save_calls
from cluster.records.member import Member
from cluster.stage import RunError

functions = st.sampled_from([divmod, "operator:add", lambda *_: "by value"])
calls = st.builds(Call, functions, st.tuples(st.integers(), st.text(max_size=3)))
folders = itertools.count()


def _same(one: Call, other: Call) -> bool:
    named = isinstance(one.function, str) or one.function is divmod
    same = one.function == other.function if named else other.resolve()() == "by value"
    return same and one.args == other.args and one.kwargs == other.kwargs


@given(st.lists(st.lists(calls, min_size=1, max_size=5), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_each_member_loads_its_own_call(tmp_path: Path, arrays: list[list[Call]]) -> None:
    run = tmp_path / str(next(folders))
    every = list(itertools.chain.from_iterable(arrays))
    first = 0
    for array in arrays:
        save_calls(run / "members" / "job", first, array)
        first += len(array)
    loaded = [Call.load(Member(run, "job", index)) for index in range(len(every))]
    assert all(_same(call, found) for call, found in zip(every, loaded, strict=True))


class _Model:
    def __init__(self) -> None:
        self.weights = bytes(range(256)) * 1000

    def size(self, other: "_Model") -> int:
        return len(other.weights)


def test_what_a_function_carries_is_written_once(tmp_path: Path) -> None:
    save_calls(tmp_path / "members/job", 0, [Call(_Model().size, (n,)) for n in range(3)])
    (path,) = (tmp_path / "members/job/calls").iterdir()
    thrice = path.stat().st_size
    size: Callable[..., Any] = _Model().size
    save_calls(tmp_path / "members/job", 0, [Call(size, (n,)) for n in range(100)])
    assert path.stat().st_size < thrice / 2


def test_what_function_and_arguments_share_stays_shared(tmp_path: Path) -> None:
    model = _Model()
    size = model.size
    extra = [1]
    save_calls(tmp_path / "members/job", 0, [Call(size, (model, extra, extra)) for _ in range(3)])
    for index in range(3):
        call = Call.load(Member(tmp_path, "job", index))
        assert isinstance(call.function, MethodType)
        assert call.function.__self__ is call.args[0]
        assert call.args[1] is call.args[2]


def test_a_call_laid_down_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    members = [Member(tmp_path, "job", index) for index in range(3)]
    save_calls(tmp_path / "members/job", 0, [Call(divmod, (n, 2)) for n in range(3)])
    Call(divmod, (9, 9)).save(members[1])
    assert [Call.load(member).args for member in members] == [(0, 2), (9, 9), (2, 2)]


def test_what_a_killed_submission_left_is_not_taken_for_the_next(tmp_path: Path) -> None:
    # Killed after the calls and before the stage counted its members: the next begins at 0 too.
    stage = tmp_path / "members/job"
    save_calls(stage, 0, [Call(divmod, (n, 2)) for n in range(10)])
    save_calls(stage, 0, [Call(pow, (0, 3))])
    save_calls(stage, 1, [Call(pow, (n, 3)) for n in (1, 2)])
    found = [Call.load(Member(tmp_path, "job", index)) for index in range(3)]
    assert [(call.function, call.args) for call in found] == [(pow, (n, 3)) for n in range(3)]


def test_a_member_that_was_never_laid_out_is_named(tmp_path: Path) -> None:
    save_calls(tmp_path / "members/job", 5, [Call(divmod, (7, 2))])
    with pytest.raises(RunError, match=r"expected what job/0004 is to do, found nothing"):
        Call.load(Member(tmp_path, "job", 4))
