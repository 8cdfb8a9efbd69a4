"""Published layout, and trajectories scored window by window."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kernels.score import LocalScoreUNet, MCScoreNet, ScoreUNet, kolmogorov_score

PAPER = (96, 192, 384)


def _published_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 126 published tensors, written out from their description."""
    layout: dict[str, tuple[int, ...]] = {"forcing": (1, 64, 64), "embedding.freqs": (16,)}

    def dense(name: str, *shape: int) -> None:
        layout[f"{name}.weight"], layout[f"{name}.bias"] = shape, shape[:1]

    dense("embedding.0", 256, 32)
    dense("embedding.2", 64, 256)
    dense("network.heads.0", 96, 11, 3, 3)
    dense("network.heads.1.0", 192, 96, 3, 3)
    dense("network.heads.2.0", 384, 192, 3, 3)
    dense("network.tails.0.2", 192, 384, 3, 3)
    dense("network.tails.1.2", 96, 192, 3, 3)
    dense("network.tails.2", 10, 96, 3, 3)
    for way, widths in (("descent", PAPER), ("ascent", PAPER[::-1])):
        for i, c in enumerate(widths):
            for j in range(3):
                block = f"network.{way}.{i}.{j}"
                dense(f"{block}.project.0", c, 64)
                dense(f"{block}.residue.1", c, c, 3, 3)
                dense(f"{block}.residue.3", c, c, 3, 3)
    return {f"kernel.{name}": shape for name, shape in layout.items()}


def test_the_published_network_to_the_last_parameter() -> None:
    score = kolmogorov_score()
    assert sum(p.numel() for p in score.parameters()) == 22_874_922
    found = {name: tuple(value.shape) for name, value in score.state_dict().items()}
    assert len(found) == 126
    assert found == _published_layout()


def _small() -> MCScoreNet:
    torch.manual_seed(0)
    return kolmogorov_score(3, 2, 8, hidden_channels=(64, 64), hidden_blocks=(1, 1))


def test_published_weights_load_whole_or_not_at_all() -> None:
    score, other = _small(), _small()
    state = {name: torch.randn_like(value) for name, value in other.state_dict().items()}
    score.load_official(state)
    assert all(torch.equal(value, state[name]) for name, value in score.state_dict().items())
    name = "kernel.network.heads.0.weight"
    faults = {
        "missing": {k: v for k, v in state.items() if k != name},
        "unknown": state | {"kernel.more": torch.zeros(1)},
        "expected": state | {name: state[name][:, :1]},
        "finite": state | {name: state[name] * math.nan},
    }
    for message, bad in faults.items():
        with pytest.raises(ValueError, match=message):
            score.load_official(bad)
    assert torch.equal(score.state_dict()[name], state[name])


def test_forcing_is_sine_of_four_y_at_cell_centers() -> None:
    forcing = LocalScoreUNet(2, 16, hidden_channels=(8,), hidden_blocks=(1,)).forcing
    y = (torch.arange(16, dtype=torch.float64) + 0.5) * 2 * math.pi / 16
    expected = torch.sin(4 * y)[:, None].expand(16, 16)
    torch.testing.assert_close(forcing[0].double(), expected, rtol=0, atol=1e-6)


class _Windows(nn.Module):
    """A cheap kernel that mixes all the channels of a window, nonlinearly and by time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels, dtype=torch.float64)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.mix(x.movedim(1, -1)) + t[:, None, None]).movedim(-1, 1)


@settings(max_examples=40, deadline=None)
@given(
    order=st.integers(0, 3),
    extra=st.integers(0, 6),
    batch=st.integers(1, 3),
    features=st.integers(1, 3),
    chunk=st.none() | st.integers(1, 4),
    recompute=st.booleans(),
)
def test_folded_score_equals_a_loop_over_windows(
    order: int, extra: int, batch: int, features: int, chunk: int | None, recompute: bool
) -> None:
    length = 2 * order + 1 + extra
    kernel = _Windows((2 * order + 1) * features)
    score = MCScoreNet(features, order, kernel, chunk, recompute)
    x = torch.randn(batch, length, features, 4, dtype=torch.float64, requires_grad=True)
    t = torch.rand(batch, dtype=torch.float64)
    expected = torch.empty_like(x)
    rows = []
    for b in range(batch):
        frames = []
        for i in range(length):
            start = min(max(i - order, 0), length - 2 * order - 1)
            window = x[b, start : start + 2 * order + 1].reshape(1, -1, 4)
            out = kernel(window, t[b : b + 1])[0].reshape(2 * order + 1, features, 4)
            frames.append(out[i - start])
        rows.append(torch.stack(frames))
    expected = torch.stack(rows)
    found = score(x, t)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(found, x, cotangent), torch.autograd.grad(expected, x, cotangent)
    )


def test_chunked_score_does_not_see_the_batch() -> None:
    score = _small()
    score.chunk = 2
    x, t = torch.randn(3, 6, 2, 8, 8), torch.rand(3)
    whole = score(x, t)
    assert all(torch.equal(score(x[b : b + 1], t[b : b + 1])[0], whole[b]) for b in range(3))
    score.chunk = None
    torch.testing.assert_close(score(x, t), whole, rtol=1e-4, atol=1e-5)


def test_scalar_time_and_shared_context_broadcast() -> None:
    torch.manual_seed(0)
    score = ScoreUNet(2, context=1, hidden_channels=(8,), hidden_blocks=(1,))
    x, c = torch.randn(3, 2, 8, 8), torch.randn(1, 8, 8)
    found = score(x, torch.tensor(0.3), c)
    expected = score(x, torch.full((3,), 0.3), c.expand(3, 1, 8, 8))
    assert torch.equal(found, expected)


def test_bad_input_is_named() -> None:
    score = _small()
    with pytest.raises(ValueError, match="L >= 3"):
        score(torch.zeros(1, 2, 2, 8, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="fields of"):
        score(torch.zeros(1, 3, 2, 16, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="odd"):
        kolmogorov_score(4)
    with pytest.raises(ValueError, match="order"):
        MCScoreNet(1, -1, nn.Identity())
