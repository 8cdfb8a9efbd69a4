"""Sweeps: what their points are, and what is refused."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import Config, ConfigError, with_values
from pipelines.config.sweep import check_sweep, grid


class Training(Config):
    rate: float = 1e-3
    sizes: tuple[int, ...] = (8, 16)


class Job(Config):
    name: str = "job"
    training: Training = Training()


@settings(max_examples=25, deadline=None)
@given(
    rates=st.lists(st.floats(allow_nan=False), min_size=1, max_size=4),
    names=st.lists(st.text(max_size=5), min_size=1, max_size=4),
)
def test_every_combination_is_a_point_and_becomes_a_configuration(
    rates: list[float], names: list[str]
) -> None:
    points = grid({"training": {"rate": list(rates)}, "name": list(names)})
    found = [with_values(Job(), point) for point in points]
    wanted = [Job(name=n, training=Training(rate=r)) for r, n in product(rates, names)]
    assert found == wanted


def test_a_value_may_be_a_list_and_the_rest_stays() -> None:
    config = Job(name="mine", training=Training(rate=2.0))
    first, second = (with_values(config, p) for p in grid({"training": {"sizes": [[1], [2, 3]]}}))
    assert (first.training.sizes, second.training.sizes) == ((1,), (2, 3))
    assert {first.name, second.name} == {"mine"}
    assert {first.training.rate, second.training.rate} == {2.0}


def test_nothing_swept_is_one_point() -> None:
    assert grid({}) == [{}]
    assert with_values(Job(), {}) == Job()


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"training": {"rate": 1e-3}}, "training.rate: expected a list of values to sweep"),
        ({"training": {"rate": []}}, "training.rate: expected a list of values to sweep"),
        ({"training": {"rate": ["fast"]}}, "training.rate: expected a number, found 'fast'"),
        ({"training": {"rat": [1.0]}}, "training.rat: unknown key; did you mean 'rate'"),
        ({"name": ["a"]}, "expected to sweep values of training; found 'name'"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(sweep: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_sweep(Job(), sweep, ["training"])


def test_all_problems_of_a_sweep_are_told_once() -> None:
    sweep: dict[str, Any] = {"training": {"rate": ["a", "b"], "sizes": [[1], [2]]}}
    with pytest.raises(ValueError, match="found 'a'") as error:
        check_sweep(Job(), sweep, ["training"])
    assert str(error.value).count("found 'b'") == 1
    with pytest.raises(ConfigError):
        with_values(Job(), {"training.rate": "a"})
