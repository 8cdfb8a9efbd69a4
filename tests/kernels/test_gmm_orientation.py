"""Which way round a density is fitted."""

import torch

from kernels.gmm.families import TRAINED, draw_batch, random_edges
from kernels.gmm.gridded import Gridded, Standardization
from kernels.gmm.mixture import Mixture, log_cell_masses
from kernels.gmm.orientation import Orientation


def _reflected(gridded: Gridded) -> Gridded:
    return gridded._replace(masses=gridded.masses.flip(-1), edges=-gridded.edges.flip(-1))


def _densities() -> Gridded:
    generator = torch.Generator().manual_seed(3)
    edges = random_edges(generator, (80, 80))
    gridded = Gridded(draw_batch(TRAINED, 40, edges, generator).masses(), edges.unsqueeze(0))
    return Standardization.of(gridded).forward(gridded)


def test_a_density_and_its_reflection_become_one() -> None:
    gridded = _densities()
    here, there = Orientation.of(gridded), Orientation.of(_reflected(gridded))
    lopsided = (here.mirrored != there.mirrored).squeeze(-1)
    assert lopsided.sum() > 36
    assert 5 < here.mirrored.sum() < 35
    one, other = here.forward(gridded), there.forward(_reflected(gridded))
    assert torch.equal(one.masses[lopsided], other.masses[lopsided])
    assert torch.equal(one.edges[lopsided], other.edges[lopsided])
    assert (one.edges.diff(dim=-1) > 0).all()


def test_mixtures_are_turned_with_their_densities() -> None:
    gridded = _densities()
    orientation = Orientation.of(gridded)
    turned = orientation.forward(gridded)
    draw = torch.randn(3, 40, 4, generator=torch.Generator().manual_seed(0)).double()
    m = Mixture(draw[0].log_softmax(-1), draw[1].sort().values, draw[2].exp())
    back = orientation.inverse(m)
    assert (back.means.diff(dim=-1) > 0).all()
    masses = log_cell_masses(m, turned.edges).exp()
    expected = torch.where(orientation.mirrored, masses.flip(-1), masses)
    found = log_cell_masses(back, gridded.edges).exp()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_the_fifth_moment_decides_where_there_is_no_third() -> None:
    """And a symmetric density stays as it is."""
    edges = torch.arange(-5.5, 6.5, dtype=torch.float64).unsqueeze(0)
    odd = torch.zeros(1, 11, dtype=torch.float64)
    # At 1, 2 and 3: sums of a x and of a x^3 are zero, that of a x^5 is 24.
    odd[0, [6, 7, 8]] = torch.tensor([5.0, -4.0, 1.0]).double() / 200
    masses = 1 / 11 + odd - odd.flip(-1)
    places = torch.arange(-5.0, 6.0).double()
    assert (masses * places**3).sum().abs() < 1e-13 < (masses * places**5).sum()
    gridded = Gridded(masses, edges)
    assert not Orientation.of(gridded).mirrored
    assert Orientation.of(_reflected(gridded)).mirrored
    even = Gridded(torch.full((1, 11), 1 / 11, dtype=torch.float64), edges)
    assert not Orientation.of(even).mirrored
    assert not Orientation.of(_reflected(even)).mirrored
