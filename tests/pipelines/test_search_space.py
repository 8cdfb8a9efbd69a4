"""The space of a search: what is drawn from it, and what is refused."""

import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.config import Config, with_values
from pipelines.search import Choice, Range, check_space, draw, read_space

POSITIVE = st.floats(1e-12, 1e12)
SHARES = st.floats(0, 1, exclude_max=True)


class Training(Config):
    rate: float = 1e-3
    batch: int = 8


class Job(Config):
    name: str = "job"
    training: Training = Training()


@settings(max_examples=100, deadline=None)
@given(low=POSITIVE, high=POSITIVE, log=st.booleans(), share=SHARES, other=SHARES)
def test_a_float_is_within_its_range_and_grows_with_the_share(
    low: float, high: float, log: bool, share: float, other: float
) -> None:
    assume(low < high)
    axis = Range(low, high, log)
    few, many = (axis.at(u) for u in sorted([share, other]))
    assert isinstance(few, float)
    assert isinstance(many, float)
    assert low <= few <= many <= high
    assert few == float(f"{few:.6g}") or few in (low, high)


@settings(max_examples=100, deadline=None)
@given(low=st.integers(1, 500), steps=st.integers(1, 60), step=st.integers(1, 9), share=SHARES)
def test_whole_numbers_are_on_their_steps(low: int, steps: int, step: int, share: float) -> None:
    found = Range(low, low + steps * step, step=step).at(share)
    assert found in range(low, low + steps * step + 1, step)


@settings(max_examples=30, deadline=None)
@given(low=st.integers(-20, 20), count=st.integers(2, 40), log=st.booleans())
def test_every_whole_number_comes_and_without_log_equally_often(
    low: int, count: int, log: bool
) -> None:
    assume(low > 0 or not log)
    axis, draws = Range(low, low + count - 1, log), 97 * count
    found = [axis.at((n + 0.5) / draws) for n in range(draws)]
    assert set(found) == set(range(low, low + count))
    if not log:
        assert {found.count(value) for value in set(found)} == {97}


@settings(max_examples=100, deadline=None)
@given(low=POSITIVE, factor=st.floats(1.001, 1e6), share=st.floats(0, 1, exclude_max=True))
def test_the_logarithm_is_what_is_uniform(low: float, factor: float, share: float) -> None:
    found = Range(low, low * factor, log=True).at(share)
    assert isinstance(found, float)
    assert math.log(found / low) == pytest.approx(share * math.log(factor), abs=1e-5)


def test_a_random_search_is_the_same_on_every_machine() -> None:
    space = read_space(
        {
            "network": {"variant": ["a", "b", None, [1, 2]], "hidden": {"low": 4, "high": 64}},
            "rate": {"low": 1e-5, "high": 1e-1, "log": True},
            "units": {"low": 8, "high": 64, "step": 8},
        }
    )
    assert [draw(space, 7, number) for number in range(3)] == [
        {"network.variant": None, "network.hidden": 29, "rate": 4.63882e-05, "units": 24},
        {"network.variant": "a", "network.hidden": 27, "rate": 0.000332793, "units": 32},
        {"network.variant": [1, 2], "network.hidden": 44, "rate": 0.0202605, "units": 64},
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**63), number=st.integers(0, 10**6), data=st.data())
def test_a_value_depends_on_its_own_axis_alone(seed: int, number: int, data: Any) -> None:
    axes = {name: Range(0.0, 1.0) for name in "abcdef"}
    names = data.draw(st.permutations(sorted(axes)))
    some = {name: axes[name] for name in names[: data.draw(st.integers(1, 6))]}
    whole = draw(axes, seed, number)
    assert draw(some, seed, number) == {name: whole[name] for name in some}
    assert len(set(whole.values())) == len(axes)


def test_a_list_is_a_choice_and_a_mapping_with_ends_a_range() -> None:
    sweep: dict[str, Any] = {
        "training": {"rate": {"low": 1e-4, "high": 1, "log": True}, "batch": [8, 16]},
        "name": ["a"],
    }
    assert read_space(sweep) == {
        "training.rate": Range(1e-4, 1, log=True),
        "training.batch": Choice((8, 16)),
        "name": Choice(("a",)),
    }
    point = draw(read_space(sweep), 0, 0)
    assert with_values(Job(), point).training.batch == point["training.batch"]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        (3, "rate: expected a list of values or a range such as"),
        ([], "rate: expected a list of values or a range such as"),
        ({"low": 1.0}, "rate: expected a list of values or a range such as"),
        ({"low": 1.0, "high": 2.0, "lgo": True}, "rate: expected a list of values or a range"),
        ({"low": "1", "high": 2}, "rate.low: expected a number, found '1'"),
        ({"low": True, "high": 2}, "rate.low: expected a number, found True"),
        ({"low": 1, "high": 2, "log": 1}, "rate.log: expected true or false, found 1"),
        ({"low": 2, "high": 2}, "rate: expected finite low < high, found 2 and 2"),
        ({"low": 0.0, "high": math.inf}, "rate: expected finite low < high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "rate: expected low > 0 for log: true, found 0"),
        ({"low": 1, "high": 8, "step": 2}, "rate: expected a step that leads from 1 to 8"),
        ({"low": 1, "high": 8, "step": 0}, "rate: expected a step that leads from 1 to 8"),
        ({"low": 1.0, "high": 8.0, "step": 2}, "rate: expected a step with whole numbers"),
    ],
)
def test_what_is_no_axis_is_refused(axis: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_space({"training": {"rate": axis}})


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"name": ["a"]}, "expected to search values of training; found 'name'"),
        ({"training": {"rat": [1.0]}}, "training.rat: unknown key; did you mean 'rate'"),
        ({"training": {"batch": {"low": 1.0, "high": 2.0}}}, "training.batch: expected an integer"),
        ({"training": {"rate": [1.0, "fast"]}}, "training.rate: expected a number, found 'fast'"),
    ],
)
def test_a_space_that_cannot_be_is_refused(sweep: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_space(Job(), read_space(sweep), ["training"])
