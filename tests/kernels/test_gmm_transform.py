"""Unconstrained coordinates: order and bounds in any range, and the inverse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture, log_density
from kernels.gmm.transform import ParameterTransform

EXTREMES = (0.0, 1.0, -1.0, 30.0, -30.0, 1e6, -1e6, 3e38, -3e38)


def _transform(dtype: torch.dtype, points: int = 96) -> ParameterTransform:
    edges = torch.linspace(-4, 4, points + 1, dtype=dtype).unsqueeze(0)
    return ParameterTransform.of(Gridded(torch.full((1, points), 1 / points, dtype=dtype), edges))


def _assert_valid(m: Mixture, transform: ParameterTransform) -> None:
    k = m.means.shape[-1]
    assert (m.means.diff(dim=-1) > 0).all()
    assert (m.means >= transform.low).all()
    assert (m.means <= transform.low + (k + 1) * transform.width).all()
    assert (m.sigmas >= 0.999 * transform.sigma_low).all()
    assert (m.sigmas <= 1.001 * transform.sigma_high).all()
    assert m.log_weights.isfinite().all()
    torch.testing.assert_close(m.log_weights.exp().sum(-1), torch.ones(len(m.means)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 16).flatmap(
        lambda k: st.lists(
            st.sampled_from(EXTREMES) | st.floats(width=32, allow_nan=False, allow_infinity=False),
            min_size=3 * k,
            max_size=3 * k,
        )
    )
)
def test_project_is_ordered_bounded_and_has_finite_gradients_everywhere(
    values: list[float],
) -> None:
    raw = torch.tensor([values], dtype=torch.float32, requires_grad=True)
    transform = _transform(torch.float32, points=512)

    m = transform.project(raw)
    (gradient,) = torch.autograd.grad(torch.cat(list(m)).sum(), raw)

    _assert_valid(Mixture(*(tensor.detach() for tensor in m)), transform)
    assert gradient.isfinite().all()


def _mixture(gaps: Tensor) -> Mixture:
    k = len(gaps) + 1
    means = torch.cat([gaps.new_tensor([-3.0]), gaps]).cumsum(0)
    sigmas = torch.linspace(0.01, 3, k, dtype=gaps.dtype)
    return Mixture(torch.linspace(-9, 0, k, dtype=gaps.dtype).log_softmax(0), means, sigmas)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_inverse_keeps_the_digits_of_gaps_of_any_size(dtype: torch.dtype, digits: float) -> None:
    gaps = torch.tensor([2e-4, 1e-3, 0.1, 2.0, 3.0], dtype=dtype)
    m = Mixture(*(tensor.unsqueeze(0) for tensor in _mixture(gaps)))
    transform = _transform(dtype)

    again = transform.project(transform.inverse(m))

    for found, expected in zip(again, m, strict=True):
        torch.testing.assert_close(found, expected, rtol=digits, atol=digits)


def test_settling_orders_the_components_and_leaves_the_density() -> None:
    m = Mixture(
        torch.tensor([[0.2, 0.3, 0.5]]).double().log(),
        torch.tensor([[1.0, -2.0, 0.5]]).double(),
        torch.tensor([[0.3, 1.0, 0.5]]).double(),
    )
    z = torch.linspace(-4, 4, 33, dtype=torch.float64).unsqueeze(0)

    settled = _transform(torch.float64).settle(m)

    _assert_valid(settled.to(torch.float32), _transform(torch.float32))
    torch.testing.assert_close(log_density(settled, z), log_density(m, z))
