"""The spectral denoiser against dense linear algebra and against what it promises."""

import pytest
import torch
from torch import Tensor

from kernels.score import LocalScoreUNet, MCScoreNet
from kernels.sde import VPSDE, denoising_loss
from kernels.wiener import WienerDenoiser, WienerScore, wiener_floor, window_spectrum

SDE = VPSDE()
NY, NX, CHANNELS = 4, 6, 3


def _fields(n: int, ny: int = NY, nx: int = NX) -> Tensor:
    """Homogeneous correlated fields with a mean profile along y."""
    generator = torch.Generator().manual_seed(n)
    noise = torch.randn(n, CHANNELS, ny, nx, generator=generator, dtype=torch.float64)
    x = noise + 0.8 * noise.roll(1, dims=-1) - 0.5 * noise.roll((1, 1), dims=(-1, -2))
    x[:, 1] += 0.7 * x[:, 0].roll(1, dims=-2)
    return x + torch.sin(torch.arange(ny, dtype=torch.float64))[:, None]


def _dense(mean: Tensor, spectrum: Tensor, x: Tensor, time: float) -> Tensor:
    """sigma (mu^2 K + sigma^2 I)^-1 (x - mu m) with the covariance K written out."""
    mu, sigma = (f(torch.tensor(time, dtype=torch.float64)) for f in (SDE.mu, SDE.sigma))
    units = torch.eye(CHANNELS * NY * NX, dtype=torch.float64).reshape(-1, CHANNELS, NY, NX)
    modes = torch.fft.rfft2(units)
    colored = torch.einsum("yxcd,ndyx->ncyx", spectrum, modes)
    covariance = torch.fft.irfft2(colored, s=(NY, NX)).flatten(1).T
    total = mu**2 * covariance + sigma**2 * torch.eye(len(covariance), dtype=torch.float64)
    centered = (x - mu * mean).flatten(1)
    solution: Tensor = torch.linalg.solve(total, centered.T)
    return sigma * solution.T.reshape(x.shape)


def _denoiser(mean: Tensor, spectrum: Tensor) -> WienerDenoiser:
    empty = WienerDenoiser(torch.zeros_like(mean), torch.zeros_like(spectrum)).double()
    made = WienerDenoiser(mean, spectrum).double()
    empty.load_state_dict(made.state_dict())
    return empty


@pytest.mark.parametrize("time", [0.05, 0.5, 0.95])
def test_spectral_equals_dense_estimate(time: float) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        mean, spectrum = window_spectrum(_fields(50))
        denoiser = _denoiser(mean, spectrum)
    finally:
        torch.set_default_dtype(torch.float32)
    x = _fields(7)
    t = torch.full((7,), time, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, t), _dense(mean, spectrum, x, time))
    torch.testing.assert_close(denoiser(x, t[0]), denoiser(x, t))


def test_white_noise_has_unit_spectrum() -> None:
    noise = torch.randn(4000, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    mean, spectrum = window_spectrum(noise)
    expected = torch.eye(2, dtype=torch.complex128).expand(4, 4, 2, 2)
    torch.testing.assert_close(spectrum, expected, rtol=0, atol=0.1)
    assert mean.abs().max() < 0.05


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_promised_error_equals_monte_carlo(time: float) -> None:
    fields = _fields(6000)
    denoiser = WienerDenoiser(*window_spectrum(fields)).double()
    t = torch.full((len(fields),), time, dtype=torch.float64)
    noise = torch.randn(fields.shape, generator=torch.Generator().manual_seed(1)).double()
    error = denoising_loss(denoiser, SDE, fields, t, noise).mean()
    promised = denoiser.residual_std(t[:1]).square().item()
    assert error.item() == pytest.approx(promised, rel=0.02)


def test_floor_equals_monte_carlo_over_time() -> None:
    fields = _fields(8000)
    mean, spectrum = window_spectrum(fields)
    generator = torch.Generator().manual_seed(2)
    t = torch.rand(len(fields), generator=generator, dtype=torch.float64)
    noise = torch.randn(fields.shape, generator=generator, dtype=torch.float64)
    losses = denoising_loss(WienerDenoiser(mean, spectrum).double(), SDE, fields, t, noise)
    assert losses.mean().item() == pytest.approx(wiener_floor(spectrum, SDE), rel=0.03)


def _score(size: int = 8) -> tuple[WienerScore, Tensor]:
    torch.manual_seed(0)
    fields = _fields(400, size, size).float()
    kernel = LocalScoreUNet(
        CHANNELS, size, context=CHANNELS, hidden_channels=(16, 16), hidden_blocks=(1, 1)
    )
    return WienerScore(kernel, WienerDenoiser(*window_spectrum(fields))), fields


def test_score_starts_at_the_linear_estimate_and_learns() -> None:
    score, fields = _score()
    t, noise = torch.rand(len(fields)), torch.randn(fields.shape)
    x = SDE.perturb(fields, t, noise)
    assert torch.equal(score(x, t), score.denoiser(x, t))
    loss = denoising_loss(score, SDE, fields, t, noise).mean()
    torch.autograd.backward(loss)
    gradient = score.kernel.network.tails[-1].get_parameter("weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert not any(name.startswith("denoiser") for name, _ in score.named_parameters())


def test_input_gradient_equals_finite_differences() -> None:
    score, fields = _score()
    for parameter in score.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    score = score.double()
    x = fields[:1].double().requires_grad_()
    t = torch.tensor([0.4], dtype=torch.float64)
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(score(x, t).sin().sum(), x)
    step = 1e-6
    with torch.no_grad():
        up, down = (score(x + s * direction, t).sin().sum() for s in (step, -step))
    slope = (up - down) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-6)


def test_trajectories_may_wrap_it() -> None:
    score, fields = _score()
    chain = MCScoreNet(1, 1, score)
    assert chain(fields[:2, :, None].repeat(1, 2, 1, 1, 1), torch.tensor(0.3)).shape[1] == 6


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least 3 windows"):
        window_spectrum(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="even"):
        _score()[0].denoiser(torch.zeros(1, 3, 4, 5), torch.zeros(1))
