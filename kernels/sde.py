"""Variance-preserving diffusion: noise schedule, perturbation and denoising loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
"""A noise estimator: (x of shape (B, *), t of shape (B,)) to a tensor of the shape of x."""


@dataclass(frozen=True)
class VPSDE:
    r"""Perturbation kernel of a variance-preserving diffusion on :math:`t \in [0, 1]`.

    .. math::
        p(x_t \mid x) = \mathcal N(\mu(t)\, x,\ \sigma(t)^2 I), \qquad
        \sigma(t)^2 = 1 - \mu(t)^2 + \eta^2

    with :math:`\mu(t) = \cos^2(\omega t)`, :math:`\omega = \arccos\sqrt\eta`, for the schedule
    ``cosine_squared``, and :math:`\mu(t) = \cos(\omega t)`, :math:`\omega = \arccos\eta`, for
    ``cosine``. Both end at :math:`\mu(1) = \eta`.

    Args:
        schedule: Which of the two. Published Kolmogorov scores use ``cosine_squared``.
        eta: Noise that is left at :math:`t = 0`, and signal that is left at :math:`t = 1`.

    Raises:
        ValueError: The schedule is unknown or eta lies outside (0, 1).

    References:
        Rozet & Louppe, Score-based Data Assimilation, NeurIPS 2023, arXiv:2306.10574.
    """

    schedule: Literal["cosine_squared", "cosine"] = "cosine_squared"
    eta: float = 1e-3

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine_squared", "cosine"):
            raise ValueError(
                f"schedule must be 'cosine_squared' or 'cosine', found {self.schedule!r}"
            )
        if not 0 < self.eta < 1:
            raise ValueError(f"eta must lie between 0 and 1, found {self.eta}")

    @property
    def _squared(self) -> bool:
        return self.schedule == "cosine_squared"

    def _angle(self, t: Tensor) -> Tensor:
        return math.acos(math.sqrt(self.eta) if self._squared else self.eta) * t

    def mu(self, t: Tensor) -> Tensor:
        """Signal amplitude at t, elementwise."""
        cosine = torch.cos(self._angle(t))
        return cosine.square() if self._squared else cosine

    def sigma(self, t: Tensor) -> Tensor:
        """Noise amplitude at t, elementwise."""
        angle = self._angle(t)
        # 1 - mu^2 written with sines: the difference loses all its digits in float32 near t = 0.
        variance = torch.sin(angle).square()
        if self._squared:
            variance = variance * (1 + torch.cos(angle).square())
        return (variance + self.eta**2).sqrt()

    def perturb(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        r"""Noisy state :math:`x_t = \mu(t) x + \sigma(t) \epsilon`.

        Args:
            x: Clean states, :math:`(B, *)`.
            t: Diffusion times, :math:`(B)` or a scalar.
            noise: Standard normal noise of the shape of x.
        """
        return per_sample(self.mu(t), x) * x + per_sample(self.sigma(t), x) * noise


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """A scalar, or one value a sample (B,), shaped so that it broadcasts against x (B, *)."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value


def denoising_loss(network: Network, sde: VPSDE, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    r"""Mean squared error of the predicted noise, one value a sample.

    .. math:: \ell_b = \tfrac1D \lVert \epsilon_\phi(x_{t_b}, t_b) - \epsilon_b \rVert^2

    Nothing is averaged over the batch, so that the caller may weight samples and accumulate
    microbatches without changing the gradient.

    Args:
        network: Noise estimator.
        sde: Perturbation kernel.
        x: Clean states, :math:`(B, *)`.
        t: Diffusion times, :math:`(B)`.
        noise: Standard normal noise of the shape of x.

    Returns:
        The loss of each sample, :math:`(B)`; 1 is what a network that says zero scores.
    """
    error = network(sde.perturb(x, t, noise), t) - noise
    return error.square().flatten(1).mean(dim=1)
