"""Fits in memory: what a user gives, what comes back, and what becomes of what cannot be fitted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.gmm import Gridded, Mixture, log_density, quantile
from kernels.gmm.families import FAMILIES, draw_batch, uniform_edges
from kernels.gmm.inference import CompiledRefiner
from kernels.gmm.refiner import Refiner, RefinerConfig
from pipelines.mixtures import ModelError, fit_mixture, load_refiner
from pipelines.mixtures.certificate import GOOD, certified, divergence
from pipelines.mixtures.classical import solve_classically
from pipelines.mixtures.fitting import FLAGS, flag_counts

EDGES = uniform_edges()
POINTS = (EDGES[1:] + EDGES[:-1]) / 2


def masses(count: int, seed: int = 0) -> Tensor:
    return draw_batch(tuple(FAMILIES), count, EDGES, torch.Generator().manual_seed(seed)).masses()


def untrained() -> Refiner:
    torch.manual_seed(0)
    return Refiner(RefinerConfig(width=8, blocks=1, levels=8, bins=16))


def test_a_mixture_is_found_again_from_its_point_density() -> None:
    true = Mixture(*(torch.tensor([v]).double() for v in ([0.3, 0.7], [-2.0, 3.0], [1.0, 1.5])))
    true = true._replace(log_weights=true.log_weights.log())
    density = log_density(true, POINTS[None]).exp()[0]
    fitted = fit_mixture(density.numpy(), POINTS.numpy(), 2)
    for found, wanted in zip(fitted.mixture, true, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)
    assert fitted.kl.item() < 1e-6
    assert fitted.flags.tolist() == [0]


@pytest.mark.parametrize("components", [1, 5, 16])
def test_every_family_is_fitted_with_means_in_order(components: int) -> None:
    fitted = fit_mixture(masses(28), EDGES, components, kind="cell_mass")
    assert fitted.mixture.means.shape == (28, components)
    assert (fitted.mixture.means.diff(dim=1) >= 0).all()
    assert fitted.kl.isfinite().all()
    assert fitted.fallback_rate == 0


def test_bad_rows_are_told_and_leave_the_others_alone() -> None:
    good = masses(14)
    bad = good.clone()
    bad[1, 3], bad[4, 40] = torch.nan, -0.5
    bad[7] = 0
    fitted, alone = (fit_mixture(m, EDGES, 3, kind="cell_mass") for m in (bad, good))
    rows = [row for row in range(14) if row not in (1, 4, 7)]
    torch.testing.assert_close(fitted.kl[rows], alone.kl[rows], atol=1e-9, rtol=0)
    assert fitted.mixture.means[[1, 4, 7]].isnan().all()
    counts = flag_counts(fitted.flags.numpy())
    assert [counts[name] for name in ("not_finite", "negative", "empty")] == [1, 1, 1]
    dropped = fit_mixture(bad, EDGES, 3, kind="cell_mass", policy="drop")
    assert dropped.rows.tolist() == rows
    torch.testing.assert_close(dropped.kl, alone.kl[rows], atol=1e-9, rtol=0)
    assert len(dropped.flags) == 14
    replaced = fit_mixture(bad, EDGES, 3, kind="cell_mass", policy="replace")
    assert replaced.kl.isfinite().all()


@pytest.mark.parametrize("model", [None, "untrained"])
def test_shift_and_units_alter_no_fit(model: str | None) -> None:
    refiner = untrained() if model else None
    values, places = masses(28), (EDGES + 7.3) * 1e-12
    here = fit_mixture(values, EDGES, 5, kind="cell_mass", model=refiner)
    there = fit_mixture(values, places, 5, kind="cell_mass", model=refiner)
    torch.testing.assert_close(here.kl, there.kl, atol=2e-5, rtol=0)


def test_what_the_model_does_badly_the_classical_solver_does() -> None:
    gridded = Gridded(masses(56), EDGES[None])
    fitted = fit_mixture(gridded.masses, EDGES, 5, kind="cell_mass", model=untrained())
    _, classical = solve_classically(gridded, 5)
    fallback = (fitted.flags >> FLAGS.index("fallback") & 1).bool()
    assert fitted.fallback_rate == fallback.double().mean().item() > 0
    assert fitted.kl.isfinite().all()
    assert (fitted.kl[fallback] <= classical[fallback] + 1e-9).all()
    torch.testing.assert_close(divergence(gridded, fitted.mixture), fitted.kl)


def test_the_certificate_knows_rest_from_unrest() -> None:
    gridded = Gridded(masses(56), EDGES[None])
    rest, kl = solve_classically(gridded, 3)
    assert (kl > GOOD).any()
    assert certified(gridded, rest, kl).all()
    moved = rest._replace(sigmas=1.5 * rest.sigmas)
    assert not certified(gridded, moved, divergence(gridded, moved)).any()
    lost = rest._replace(means=rest.means * torch.nan)
    assert not certified(gridded, lost, divergence(gridded, lost)).any()


def test_a_model_file_is_the_model(tmp_path: Path) -> None:
    refiner, path = untrained(), tmp_path / "refiner.pt"
    config = {"width": 8, "blocks": 1, "levels": 8, "bins": 16}
    torch.save({"config": config, "weights": refiner.state_dict(), "made_by": {}}, path)
    values = masses(14)
    ours, theirs = (
        fit_mixture(values, EDGES, 4, kind="cell_mass", model=m) for m in (refiner, path)
    )
    assert torch.equal(ours.kl, theirs.kl)
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match="no model of this version"):
        load_refiner(path)
    with pytest.raises(ModelError, match="no such model"):
        load_refiner(tmp_path / "none.pt")


def test_a_compiled_model_does_not_learn_any_more() -> None:
    refiner, values = untrained(), masses(14)
    compiled = CompiledRefiner.of(refiner)
    models = (refiner, compiled)
    ours, theirs = (fit_mixture(values, EDGES, 4, kind="cell_mass", model=m) for m in models)
    assert all(torch.equal(a, b) for a, b in zip(ours.mixture, theirs.mixture, strict=True))
    before = [array.copy() for array in (*compiled.networks[3], compiled.table)]
    with torch.no_grad():
        for tensor in refiner.parameters():
            tensor.add_(1)
    after = (*compiled.networks[3], compiled.table)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 to 16, found 17"):
        fit_mixture(masses(14), EDGES, 17, kind="cell_mass")
    with pytest.raises(ValueError, match="found"):
        fit_mixture(np.ones((2, 9)), EDGES, 3, kind="cell_mass")


def test_tails_of_maxima_are_right() -> None:
    batch = draw_batch(("max_pair",), 40, EDGES, torch.Generator().manual_seed(3))
    fitted = fit_mixture(batch.masses(), EDGES, 5, kind="cell_mass")
    p = torch.special.ndtr(torch.tensor([3.0], dtype=torch.float64))
    error = (quantile(fitted.mixture, p) - batch.quantile(p)).abs()[:, 0]
    assert error.median() < 0.02
