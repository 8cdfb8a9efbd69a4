"""Seeds: one for every purpose, the same everywhere, and no two alike."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.seeds import derived_seed, generator

names = st.text(st.characters(exclude_characters="/", codec="utf-8"), max_size=6)
paths = st.lists(st.one_of(names, st.integers(-5, 10**9)), max_size=4).map(tuple)


@given(seed=st.integers(0, 2**70), path=paths)
def test_every_seed_is_one_that_torch_takes(seed: int, path: tuple[str | int, ...]) -> None:
    derived = derived_seed(seed, *path)
    assert 0 <= derived < 2**63
    assert derived == derived_seed(seed, *path)
    assert generator(seed, *path).initial_seed() == derived


@given(a=paths, b=paths)
def test_different_paths_have_different_seeds(
    a: tuple[str | int, ...], b: tuple[str | int, ...]
) -> None:
    same = tuple(map(str, a)) == tuple(map(str, b))
    assert (derived_seed(0, *a) == derived_seed(0, *b)) == same


def test_names_that_would_make_two_paths_one_are_refused() -> None:
    assert derived_seed(0, "a", "b") != derived_seed(0, "ab")
    with pytest.raises(ValueError, match=r"no slash, found \('a/b',\)"):
        derived_seed(0, "a/b")


def test_seeds_are_what_they_were() -> None:
    # Old runs could not be repeated if the derivation changed.
    assert derived_seed(0, "train", 2) == 9093521723581350198
    assert derived_seed(7) == 4359823973405836615


def test_another_process_draws_the_same() -> None:
    code = "from pipelines.seeds import generator; import torch; " + (
        "print(torch.randn(3, generator=generator(1, 'noise', 4)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = torch.randn(3, generator=generator(1, "noise", 4)).tolist()
    assert done.stdout.strip() == str(here)


def test_streams_are_independent() -> None:
    draws = torch.stack([torch.randn(4000, generator=generator(0, "noise", n)) for n in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    assert float(correlation.abs().max()) < 5 / 4000**0.5


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    torch.randn(3, generator=generator(0, "noise"))
    assert torch.equal(before, torch.get_rng_state())
