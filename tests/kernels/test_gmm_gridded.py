"""The input contract: what is read, what is found wrong, and that it stays in its row."""

import pytest
import torch

from kernels.gmm.gridded import Gridded, Kind, Standardization, gridded_moments, kl_divergence
from kernels.gmm.mixture import Mixture, log_cell_masses, log_density, moments
from kernels.gmm.reading import Policy, read_gridded


def _mixture(scale: float = 1.0) -> Mixture:
    parts = torch.tensor([[0.6, 0.4], [-1.0, 2.0], [0.8, 1.1]], dtype=torch.float64).unsqueeze(1)
    return Mixture(parts[0].log(), scale * parts[1], scale * parts[2])


def _points(n: int, scale: float = 1.0) -> torch.Tensor:
    """A grid whose spacing varies by a factor of three."""
    u = torch.linspace(-1, 1, n, dtype=torch.float64)
    return scale * 12 * (0.5 * u + 0.5 * u**3)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_masses_of_densities_at_points_are_of_fourth_order(scale: float) -> None:
    def error(n: int) -> float:
        z = _points(n, scale)
        gridded, _ = read_gridded(log_density(_mixture(scale), z).exp(), z, "point_density")
        exact = log_cell_masses(_mixture(scale), gridded.edges).exp()
        return float((gridded.masses - exact).abs().sum())

    assert error(65) < 5e-3
    assert error(257) < error(65) / 150


@pytest.mark.parametrize("grids", [1, 4])
def test_masses_are_integrals_of_parabolas_whatever_the_batch(grids: int) -> None:
    generator = torch.Generator().manual_seed(grids)
    values = torch.rand(4, 30, generator=generator).double()
    points = torch.rand(grids, 30, generator=generator).double().add(0.5).cumsum(-1)

    gridded, findings = read_gridded(values, points, "point_density")

    edges = gridded.edges.expand(4, -1)
    torch.testing.assert_close(
        edges[:, 1:-1], (0.5 * (points[:, 1:] + points[:, :-1])).expand(4, -1)
    )
    three, middle = points.expand(4, -1).unfold(-1, 3, 1), points.expand(4, -1)[:, 1:-1, None]
    parabola = torch.linalg.solve(torch.linalg.vander(three - middle, N=3), values.unfold(-1, 3, 1))
    cells = edges.unfold(-1, 2, 1)[:, 1:-1] - middle
    powers = torch.stack([cells, cells**2 / 2, cells**3 / 3], dim=-2)
    inner = (parabola * powers.diff(dim=-1).squeeze(-1)).sum(-1).clamp(min=0)
    ends = (values * edges.diff(dim=-1))[:, [0, -1]]
    masses = torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=-1)
    masses = masses / masses.sum(-1, keepdim=True)
    torch.testing.assert_close(gridded.masses, masses, rtol=0, atol=1e-12)
    assert not findings.flags.any()
    for row in range(4):
        alone, _ = read_gridded(values[[row]], points[[row % grids]], "point_density")
        assert torch.equal(alone.masses[0], gridded.masses[row])


def test_cell_masses_are_taken_as_they_are() -> None:
    edges = _points(100)
    masses = log_cell_masses(_mixture(), edges).exp()
    gridded, findings = read_gridded(masses, edges, "cell_mass")
    torch.testing.assert_close(gridded.masses, masses, rtol=1e-12, atol=0)
    assert kl_divergence(gridded, _mixture()).abs().max() < 1e-14
    assert not findings.bad.any()
    assert not findings.unresolved.any()
    assert not findings.not_normalized.any()
    counts, findings = read_gridded((masses * 1e6).round(), edges, "histogram")
    assert kl_divergence(counts, _mixture()).max() < 1e-3
    assert not findings.not_normalized.any()
    assert read_gridded(masses * 2, edges, "cell_mass")[1].not_normalized.all()


BAD = {"not_finite": [1.0, torch.nan, 1.0, 1.0], "negative": [1.0, -0.1, 1.0, 1.0]}
BAD["empty"] = [0.0, 0.0, 0.0, 0.0]
GOOD = [0.1, 0.2, 0.4, 0.3]


@pytest.mark.parametrize("kind", ["point_density", "cell_mass", "histogram"])
@pytest.mark.parametrize("reason", sorted(BAD))
@pytest.mark.parametrize("policy", ["report", "drop", "replace"])
def test_a_bad_row_is_named_and_stays_alone(reason: str, policy: Policy, kind: Kind) -> None:
    rows = torch.tensor([GOOD, BAD[reason], GOOD[::-1]])
    grid = torch.arange(4.0)
    gridded, findings = read_gridded(rows, grid, kind, policy)
    assert getattr(findings, reason).tolist() == [False, True, False]
    assert findings.bad.tolist() == [False, True, False]
    alone, _ = read_gridded(rows[[0, 2]], grid, kind, policy)
    good = gridded.masses if policy == "drop" else gridded.masses[[0, 2]]
    assert torch.equal(good, alone.masses)
    assert findings.kept.tolist() == ([0, 2] if policy == "drop" else [0, 1, 2])
    if policy == "report":
        assert gridded.masses[1].isnan().all()
    if policy == "replace":
        assert gridded.masses.min() >= 0
        torch.testing.assert_close(gridded.masses.sum(-1), torch.ones(3).double())


def test_a_rounding_error_below_zero_is_no_finding() -> None:
    rows = torch.tensor([[0.5, 0.5, -1e-9, 0.0]])
    gridded, findings = read_gridded(rows, torch.arange(5.0), "cell_mass")
    assert not findings.bad.any()
    assert gridded.masses.min() == 0


@pytest.mark.parametrize(("sigma", "unresolved"), [(0.1, True), (0.4, True), (1.2, False)])
@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_peaks_narrower_than_the_grid_are_flagged(
    sigma: float, unresolved: bool, mean: float
) -> None:
    spike = Mixture(*torch.tensor([[[0.0]], [[mean]], [[sigma]]], dtype=torch.float64))
    edges = torch.arange(-10, 10, dtype=torch.float64)
    masses = log_cell_masses(spike, edges).exp()
    assert read_gridded(masses, edges, "cell_mass")[1].unresolved.item() == unresolved


@pytest.mark.parametrize(
    ("shape", "grid", "kind", "match"),
    [
        ((2, 8), torch.arange(9.0), "point_density", r"last axis of \[8\]"),
        ((8,), torch.arange(8.0), "point_density", r"are \(B, N\)"),
        ((2, 8), torch.zeros(8), "cell_mass", "increase"),
        ((2, 2), torch.arange(3.0), "cell_mass", "at least 3"),
        ((2, 8), torch.arange(9.0), "pdf", "kind is one of"),
    ],
)
def test_what_cannot_be_read_is_refused(
    shape: tuple[int, ...], grid: torch.Tensor, kind: Kind, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        read_gridded(torch.ones(shape), grid, kind)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_standard_coordinates_are_standard_and_go_back(scale: float) -> None:
    m = _mixture(scale)
    edges = _points(300, scale) + 5 * scale
    m = m._replace(means=m.means + 5 * scale)
    gridded = Gridded(log_cell_masses(m, edges).exp(), edges.unsqueeze(0))
    change = Standardization.of(gridded)
    standard = change.forward(gridded)
    mean, variance = gridded_moments(standard)
    assert mean.abs().max() < 1e-12
    assert (variance - 1).abs().max() < 1e-12
    assert abs(moments(change.mixture(m)).mean.item()) < 1e-3
    torch.testing.assert_close(change.inverse(change.mixture(m)).means, m.means, rtol=1e-12, atol=0)
    assert kl_divergence(standard, change.mixture(m)).abs().max() < 1e-13


def test_rows_take_their_grids_along() -> None:
    edges = torch.stack([_points(6), 2 * _points(6)])
    gridded = Gridded(torch.full((2, 5), 0.2, dtype=torch.float64), edges)
    assert torch.equal(gridded.rows(torch.tensor([False, True])).edges, edges[1:])
    assert gridded.to(torch.float32).masses.dtype == torch.float32
