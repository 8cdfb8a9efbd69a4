"""The U-Net against a plain re-computation, and its symmetries."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kernels.unet import UNet

State = dict[str, Tensor]


def _conv(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    x = functional.pad(x, (1, 1, 1, 1), mode="circular")
    return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride)


def _norm(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=1, keepdim=True, unbiased=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def _blocks(x: Tensor, y: Tensor, state: State, name: str, blocks: int) -> Tensor:
    for j in range(blocks):
        key = f"{name}.{j}"
        shift = y @ state[f"{key}.project.0.weight"].T + state[f"{key}.project.0.bias"]
        h = _conv(_norm(x + shift[..., None, None]), state, f"{key}.residue.1")
        x = x + _conv(h * torch.sigmoid(h), state, f"{key}.residue.3")
    return x


def _reference(x: Tensor, y: Tensor, state: State, blocks: tuple[int, ...]) -> Tensor:
    """The network written out, without modules, NHWC or minimal filtering."""
    depth, skips = len(blocks), []
    for i, n in enumerate(blocks):
        x = _conv(x, state, f"heads.{i}.0", 2) if i else _conv(x, state, "heads.0")
        x = _blocks(x, y, state, f"descent.{i}", n)
        skips.append(x)
    for i, n in enumerate(reversed(blocks)):
        x = _blocks(x, y, state, f"ascent.{i}", n)
        if i < depth - 1:
            x = _norm(x).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = _conv(x, state, f"tails.{i}.2") + skips[depth - 2 - i]
        else:
            x = _conv(x, state, f"tails.{i}")
    return x


def _network(channels: tuple[int, ...], blocks: tuple[int, ...]) -> UNet:
    torch.manual_seed(len(channels))
    return UNet(3, 2, 5, channels, blocks).double()


@pytest.mark.parametrize(
    ("channels", "blocks"), [((4,), (2,)), ((6, 8), (1, 2)), ((64, 72, 8), (1, 1, 1))]
)
def test_outputs_and_gradients_equal_the_plain_network(
    channels: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    network = _network(channels, blocks)
    state: State = dict(network.named_parameters())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    ours, plain = network(x, y), _reference(x, y, state, blocks)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    inputs = (x, y, *state.values())
    cotangent = torch.randn_like(plain)
    found = torch.autograd.grad(ours, inputs, cotangent)
    expected = torch.autograd.grad(plain, inputs, cotangent)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shift", [(2, 0), (0, 2), (6, 10)])
def test_periodic_shifts_commute(shift: tuple[int, int]) -> None:
    network = _network((64, 64), (1, 1))
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    y = torch.randn(1, 5, dtype=torch.float64)
    moved = network(x.roll(shift, dims=(2, 3)), y)
    torch.testing.assert_close(moved, network(x, y).roll(shift, dims=(2, 3)))


def test_autocast_stays_near_full_precision() -> None:
    network = _network((64, 64), (1, 1)).float()
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    full = network(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, y)
    assert half.dtype == torch.bfloat16
    assert (half - full).norm() / full.norm() < 0.03
    half.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="one entry a level"):
        UNet(3, 2, 5, (8, 16), (1,))
    with pytest.raises(ValueError, match="multiples of 2"):
        _network((4, 4), (1, 1))(torch.zeros(1, 3, 9, 8).double(), torch.zeros(1, 5).double())
