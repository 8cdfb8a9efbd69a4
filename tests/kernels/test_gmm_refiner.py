"""The refiner, trained or not: monotone, ordered, the same in any unit; compiled as in torch."""

import pytest
import torch

from kernels.gmm.families import TRAINED, draw_batch, random_edges, uniform_edges
from kernels.gmm.fisher import divergence
from kernels.gmm.gridded import Gridded, Standardization, kl_divergence
from kernels.gmm.inference import POOR, infer
from kernels.gmm.mixture import Mixture, cdf
from kernels.gmm.orientation import Orientation
from kernels.gmm.refiner import Refiner, RefinerConfig
from kernels.gmm.supervision import supervised_loss

SMALL = RefinerConfig(width=16, blocks=3)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _densities(count: int = 20, points: int = 64, seed: int = 0) -> Gridded:
    edges = uniform_edges(points)
    return Gridded(draw_batch(TRAINED, count, edges, _generator(seed)).masses(), edges.unsqueeze(0))


def _refiner(seed: int = 0) -> Refiner:
    """Untrained, but with an opinion: every parameter moved at random."""
    torch.manual_seed(seed)
    refiner = Refiner(SMALL).double()
    with torch.no_grad():
        for parameter in refiner.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=_generator(seed)))
    return refiner


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return _refiner()


@pytest.mark.parametrize(("components", "points"), [(1, 48), (2, 512), (5, 96), (16, 130)])
def test_every_block_keeps_the_order_and_never_raises_the_divergence(
    refiner: Refiner, components: int, points: int
) -> None:
    edges = random_edges(_generator(points), (points, points))
    masses = draw_batch(TRAINED, 20, edges, _generator()).masses()
    gridded = Gridded(masses, edges.unsqueeze(0))

    with torch.no_grad():
        path = refiner(gridded, components)

    assert len(path) == SMALL.blocks + 1
    values = torch.stack([divergence(gridded, m) for m in path])
    assert values.isfinite().all()
    assert (values.diff(dim=0) <= 1e-12).all()
    for m in path:
        assert (m.means.diff(dim=-1) > 0).all()
        torch.testing.assert_close(m.log_weights.exp().sum(-1), torch.ones(20).double())


def test_the_untrained_start_has_equal_quantiles() -> None:
    gridded = _densities()

    start = Refiner(SMALL)(gridded, 3)[0]

    at = gridded.edges.expand(20, -1).contiguous()
    cumulative = torch.nn.functional.pad(gridded.masses.cumsum(-1), (1, 0))
    right = torch.searchsorted(at, start.means.detach()).clamp(1, 64)
    low, high = cumulative.gather(1, right - 1), cumulative.gather(1, right)
    levels = torch.tensor([0.25, 0.5, 0.75]).double()
    smooth = torch.ones(20, dtype=torch.bool)
    smooth &= (start.means.diff(dim=-1) > 0.1).all(-1)  # else the least gap moves them
    assert smooth.sum() > 10
    assert ((low <= levels + 1e-6) & (levels - 1e-6 <= high))[smooth].all()


@pytest.mark.parametrize("components", [1, 5])
def test_shift_and_unit_do_not_matter(refiner: Refiner, components: int) -> None:
    gridded = _densities()
    elsewhere = gridded._replace(edges=1e-12 * gridded.edges + 7e-9)

    here = infer(refiner, gridded, components)
    there = infer(refiner, elsewhere, components)

    change = kl_divergence(gridded, here) - kl_divergence(elsewhere, there)
    assert change.abs().max() < 2e-5


def test_a_density_does_not_depend_on_its_batch(refiner: Refiner) -> None:
    gridded = _densities()

    together = infer(refiner, gridded, 4)
    for row in range(5):
        alone = infer(refiner, gridded.rows(torch.tensor([row])), 4)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("components", [1, 5])
def test_a_reflected_density_has_the_reflected_fit(refiner: Refiner, components: int) -> None:
    """Where it is not symmetric itself: then no way round is the right one."""
    gridded = _densities(60)
    reflected = Gridded(gridded.masses.flip(-1), -gridded.edges.flip(-1))
    sides = (Orientation.of(Standardization.of(g).forward(g)) for g in (gridded, reflected))
    lopsided = torch.ne(*(side.mirrored.squeeze(-1) for side in sides))
    assert lopsided.sum() > 54

    with torch.no_grad():
        pairs = [
            [infer(refiner, densities, components) for densities in (gridded, reflected)],
            [refiner(densities, components)[-1] for densities in (gridded, reflected)],
        ]

    for here, there in pairs:
        for sign, a, b in zip((1, -1, 1), here, there, strict=True):
            found, expected = sign * b.flip(-1)[lopsided], a[lopsided]
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("components", [1, 3, 8])
def test_the_compiled_blocks_are_those_of_torch(refiner: Refiner, components: int) -> None:
    gridded = _densities(seed=1)

    with torch.no_grad():
        expected = refiner(gridded, components)[-1]
    found = infer(
        refiner, gridded, components, steps=SMALL.blocks, enough=0.0, merged=-1.0, rivals=0
    )

    points = gridded.edges.expand(20, -1)
    torch.testing.assert_close(cdf(found, points), cdf(expected, points), rtol=0, atol=1e-12)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_more_steps_never_make_it_worse_and_none_are_taken_that_promise_nothing(
    refiner: Refiner,
) -> None:
    gridded = _densities()
    values = [
        kl_divergence(gridded, infer(refiner, gridded, 4, steps=steps, rivals=0))
        for steps in (1, 3, 12)
    ]
    start = infer(refiner, gridded, 4, enough=1e9, rivals=0)

    assert (values[1] <= values[0] + 1e-9).all()
    assert (values[2] <= values[1] + 1e-9).all()
    assert values[2].mean() < 0.5 * values[0].mean()
    with torch.no_grad():
        expected = refiner(gridded, 4)[0]
    torch.testing.assert_close(start, expected)


def test_other_starts_are_tried_where_a_fit_is_poor_and_the_best_is_kept(
    refiner: Refiner,
) -> None:
    gridded = _densities(60)
    alone, rival = (infer(refiner, gridded, 4, rivals=rivals) for rivals in (0, 2))
    before, after = kl_divergence(gridded, alone), kl_divergence(gridded, rival)

    good = before < 0.9 * POOR
    assert 5 < good.sum() < 55
    assert torch.equal(rival.means[good], alone.means[good])
    assert (after <= before + 1e-9).all()
    assert (after < 0.5 * before).sum() > 3


def test_empty_cells_may_be_merged(refiner: Refiner) -> None:
    gridded = _densities()

    merged = kl_divergence(gridded, infer(refiner, gridded, 4, steps=30))
    whole = kl_divergence(gridded, infer(refiner, gridded, 4, steps=30, merged=-1.0))

    torch.testing.assert_close(merged.median(), whole.median(), rtol=0.05, atol=1e-6)


def test_a_row_that_is_not_finite_stays_alone(refiner: Refiner) -> None:
    gridded = _densities()
    broken = gridded._replace(masses=gridded.masses.clone())
    broken.masses[3] = torch.nan

    expected, found = infer(refiner, gridded, 4), infer(refiner, broken, 4)

    others = torch.arange(20) != 3
    assert all(tensor[3].isnan().all() for tensor in found)
    assert torch.equal(found.means[others], expected.means[others])


def _spike() -> Gridded:
    """All the mass in one cell, in two distant ones, and evenly everywhere, in float32."""
    masses = torch.zeros(3, 96)
    masses[0, 40] = 1
    masses[1, [2, 90]] = 0.5
    masses[2] = 1 / 96
    return Gridded(masses, torch.linspace(-15, 15, 97).unsqueeze(0))


@pytest.mark.parametrize("components", [1, 8])
def test_gradients_are_finite_where_the_grid_resolves_nothing(components: int) -> None:
    refiner = Refiner(SMALL)
    gridded = _spike()

    loss = supervised_loss(refiner(gridded, components), gridded, "uniform", 0)
    gradients = torch.autograd.grad(
        loss, list(refiner.parameters()), allow_unused=True, materialize_grads=True
    )

    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_training_improves_the_start_and_the_end() -> None:
    torch.manual_seed(0)
    refiner = Refiner(SMALL)
    optimizer = torch.optim.Adam(refiner.parameters(), lr=5e-3)
    held = _densities(seed=99).to(torch.float32)

    def quality() -> list[float]:
        with torch.no_grad():
            return [divergence(held, m).mean().item() for m in refiner(held, 4)]

    before = quality()
    for step in range(25):
        gridded = _densities(seed=step).to(torch.float32)
        loss = supervised_loss(refiner(gridded, 4), gridded, "linear", 0)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    after = quality()

    assert after[0] < 0.7 * before[0]
    assert after[-1] < 0.7 * before[-1]


@pytest.mark.parametrize("components", [0, 17])
def test_a_number_of_components_out_of_range_is_named(refiner: Refiner, components: int) -> None:
    with pytest.raises(ValueError, match=f"found {components}"):
        infer(refiner, _densities(), components)


def test_weights_are_small_enough_to_ship() -> None:
    numbers = sum(parameter.numel() for parameter in Refiner(RefinerConfig()).parameters())

    assert 4 * numbers < 1_000_000
    assert isinstance(Refiner(SMALL)(_densities(), 2)[0], Mixture)
