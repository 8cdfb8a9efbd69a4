"""Minimal filtering equals the convolution that it stands for, and so do its gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from kernels import winograd
from kernels.convolution import ChannelNorm, CircularConv2d, circular_pad
from kernels.winograd import winograd_conv2d


def _reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)


def _case(
    b: int, c: int, d: int, h: int, w: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(b + 10 * c + 100 * d)
    shapes = ((b, c, h, w), (d, c, 3, 3), (d,))
    x, weight, bias = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(1, 3),
    c=st.integers(1, 5),
    d=st.integers(1, 5),
    h=st.sampled_from((4, 8, 12, 20)),
    w=st.sampled_from((4, 8, 16)),
)
def test_values_and_gradients_equal_direct_convolution(
    b: int, c: int, d: int, h: int, w: int
) -> None:
    inputs = _case(b, c, d, h, w)
    ours, plain = winograd_conv2d(*inputs), _reference(*inputs)
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
    cotangent = torch.randn_like(plain)
    found = torch.autograd.grad(ours, inputs, cotangent)
    expected = torch.autograd.grad(plain, inputs, cotangent)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_chunks_of_a_batch_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _case(7, 4, 3, 8, 8)
    whole = winograd_conv2d(*inputs)
    cotangent = torch.randn_like(whole)
    gradients = torch.autograd.grad(whole, inputs, cotangent)
    monkeypatch.setattr(winograd, "_CHUNK_TILES", 12)
    monkeypatch.setattr(winograd, "_CHUNK_VALUES", 0)
    parts = winograd_conv2d(*inputs)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, inputs, cotangent), gradients)


def test_single_precision_error_is_of_the_order_of_rounding() -> None:
    x, weight, bias = _case(2, 64, 64, 16, 16, torch.float32)
    ours = winograd_conv2d(x, weight, bias).double()
    exact = _reference(x.double(), weight.double(), bias.double())
    assert (ours - exact).norm() / exact.norm() < 3e-6


def test_only_wanted_gradients_are_made() -> None:
    x, weight, bias = _case(1, 2, 2, 4, 4)
    ours = winograd_conv2d(x, weight.detach(), bias.detach())
    (found,) = torch.autograd.grad(ours.square().sum(), x)
    plain = _reference(x, weight, bias)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_module_equals_circular_convolution(channels: int, size: int, stride: int) -> None:
    layer = CircularConv2d(channels, channels, size, stride).double()
    x = torch.randn(2, channels, 8, 12, dtype=torch.float64, requires_grad=True)
    halo = (size // 2,) * 4
    padded = functional.pad(x, halo, mode="circular") if size > 1 else x
    plain = functional.conv2d(padded, layer.weight, layer.bias, stride)
    torch.testing.assert_close(layer(x), plain)
    assert layer.bias is not None
    inputs = (x, layer.weight, layer.bias)
    cotangent = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(layer(x), inputs, cotangent),
        torch.autograd.grad(plain, inputs, cotangent),
    )


def test_module_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="odd"):
        CircularConv2d(3, 3, 4)
    with pytest.raises(ValueError, match="does not fit"):
        circular_pad(torch.zeros(1, 1, 2, 2), 3)


def test_norm_has_unbiased_unit_variance() -> None:
    x = 3 + 5 * torch.randn(2, 7, 4, 4, dtype=torch.float64)
    shift = torch.randn(2, 7, 1, 1, dtype=torch.float64)
    y = ChannelNorm(7)(x, shift)
    z = x + shift
    variance, mean = torch.var_mean(z, dim=1, keepdim=True)
    torch.testing.assert_close(y, (z - mean) / (variance + 1e-5).sqrt())
    with pytest.raises(ValueError, match="at least 2"):
        ChannelNorm(1)
