"""The refiner in the package: on densities that nobody drew before, it is what the docs promise."""

from functools import cache

import pytest
import torch
from torch import Tensor

from benchmarks.mixtures.measures import Quality, Trial
from kernels.gmm import fused
from kernels.gmm.start import quantile_start
from pipelines.mixtures import Fitted, fit_mixture
from pipelines.mixtures.learned import SHIPPED

SEED = 990_017
"""Of the test alone: trainings count from zero, validations and benchmarks have others."""

each_size = pytest.mark.parametrize("components", [3, 5, 8])


@cache
def trial() -> Trial:
    return Trial(840, 96, SEED)


def fitted(components: int, edges: Tensor | None = None) -> Fitted:
    gridded = trial().gridded
    where = gridded.edges[0] if edges is None else edges
    return fit_mixture(gridded.masses, where, components, kind="cell_mass", model="shipped")


@cache
def quality(components: int) -> Quality:
    return trial().measured(fitted(components).mixture, torch.arange(840))


@cache
def em(components: int, steps: int) -> Quality:
    gridded = trial().gridded
    start = quantile_start(gridded, components)
    found = fused.descend(gridded, start, method="em", budget=steps, tolerance=0.0)
    return trial().measured(found.mixture, torch.arange(840))


@each_size
def test_it_is_nearer_than_two_hundred_steps_of_em(components: int) -> None:
    ours, theirs = quality(components), em(components, 200)
    resolved = trial().resolved
    assert ours.kl[resolved].mean() < theirs.kl[resolved].mean()
    assert ours.kl[resolved].median() < 0.5 * theirs.kl[resolved].median()


@each_size
def test_few_densities_are_fitted_worse_than_by_em(components: int) -> None:
    ours, theirs = quality(components), em(components, 200)
    near = ours.kl <= torch.maximum(2 * theirs.kl, torch.tensor(1e-4))
    assert near.double().mean() >= 0.99


@each_size
def test_every_fit_is_finite_and_no_distribution_function_far_off(components: int) -> None:
    ours = quality(components)
    assert ours.kl.isfinite().all()
    assert ours.tail.isfinite().all()
    assert ours.cdf[trial().resolved].max() < 0.05


@each_size
def test_families_that_it_never_saw_are_fitted_as_well(components: int) -> None:
    ours, theirs, unseen = quality(components), em(components, 200), trial().held_out
    assert unseen.any()
    assert ours.kl[unseen].mean() < 2 * theirs.kl[unseen].mean()


@each_size
def test_it_seldom_needs_the_classical_solver(components: int) -> None:
    assert fitted(components).fallback_rate <= 0.02


@each_size
def test_a_shift_and_other_units_alter_nothing(components: int) -> None:
    moved = fitted(components, (trial().gridded.edges[0] + 7.3) * 1e-12)
    assert (moved.kl - fitted(components).kl).abs().max() < 2e-5


def test_the_file_says_how_it_was_made() -> None:
    made_by = torch.load(SHIPPED, weights_only=True)["made_by"]
    assert made_by["command"].startswith("yaoki run gmm")
    assert not made_by["git"]["dirty"]
    assert SHIPPED.stat().st_size < 2**20
