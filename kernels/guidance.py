"""Zero-shot conditioning of a diffusion model on observations."""

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.sde import VPSDE, Network, per_sample

Observation = Callable[[Tensor], Tensor]
"""A differentiable observation operator from states (B, *) to observations (B, *)."""


class GaussianLikelihood:
    r"""Gaussian observation :math:`y = A(x) + \mathcal N(0, s^2)` seen through the diffusion.

    .. math::
        \log p(y \mid x_t) \approx -\frac12 \sum
        \frac{(y - A(\hat x))^2}{s^2 + \gamma\,(\sigma/\mu)^2}, \qquad
        \hat x = \frac{x_t - \sigma\,\epsilon_\phi(x_t, t)}{\mu}

    The sum runs over the observations of one trajectory; trajectories are never reduced together.

    Args:
        observe: The operator A.
        y: Observations, :math:`(B, *)`, or one set that all trajectories share.
        std: Standard deviation s of the observation noise: a number, or anything that broadcasts
            against y.
        gamma: How much of the error of the denoised state counts as observation noise.
        detach: Take the noise estimate as a constant in the gradient. Saves the backward pass
            through the network, and guides less well.

    References:
        Rozet & Louppe, Score-based Data Assimilation, NeurIPS 2023, equation 16.
    """

    def __init__(
        self,
        observe: Observation,
        y: Tensor,
        std: float | Tensor,
        gamma: float = 1e-2,
        detach: bool = False,
    ) -> None:
        self.observe = observe
        self.y = y
        self.std = std
        self.gamma = gamma
        self.detach = detach

    def log_prob(self, x_hat: Tensor, ratio: Tensor) -> Tensor:
        """Log likelihood up to a constant, one value a trajectory.

        Args:
            x_hat: Denoised states, (B, *).
            ratio: sigma / mu, (B,).

        Returns:
            Log likelihoods in nats, (B,).
        """
        error = self.y - self.observe(x_hat)
        variance = self.std**2 + self.gamma * per_sample(ratio, error) ** 2
        return -(error.square() / variance).flatten(1).sum(dim=1) / 2


class NormalizedLikelihood:
    r"""Diffusion posterior sampling: the gradient of :math:`-2\zeta \lVert y - A(\hat x) \rVert`.

    The norm is that of one trajectory. (A norm over the batch, as is often seen, lets the
    trajectories of a batch weaken each other's guidance.)

    Args:
        observe: The operator A.
        y: Observations, :math:`(B, *)`, or one set that all trajectories share.
        zeta: Strength of the guidance.
        detach: Take the noise estimate as a constant in the gradient.

    References:
        Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR 2023.
    """

    def __init__(
        self, observe: Observation, y: Tensor, zeta: float = 1.0, detach: bool = False
    ) -> None:
        self.observe = observe
        self.y = y
        self.zeta = zeta
        self.detach = detach

    def log_prob(self, x_hat: Tensor, ratio: Tensor) -> Tensor:
        """The guidance potential, (B,); ratio is not used."""
        error = (self.y - self.observe(x_hat)).flatten(1)
        norm: Tensor = torch.linalg.vector_norm(error, dim=1)
        return -2 * self.zeta * norm


class GuidedScore:
    r"""Noise estimator of the posterior, :math:`\epsilon_\phi - \sigma \nabla \log p(y | x_t)`.

    Has the signature of the network that it wraps, so samplers need not know of the observations.

    Args:
        network: Noise estimator of the prior.
        likelihood: What was observed.
        sde: Perturbation kernel.
    """

    def __init__(
        self, network: Network, likelihood: GaussianLikelihood | NormalizedLikelihood, sde: VPSDE
    ) -> None:
        self.network = network
        self.likelihood = likelihood
        self.sde = sde

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise estimate of the posterior; x is (B, *), t is (B,) or a scalar."""
        mu, sigma = per_sample(self.sde.mu(t), x), per_sample(self.sde.sigma(t), x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            eps = self._estimate(x, t)
            x_hat = (x - sigma * eps) / mu
            potential = self.likelihood.log_prob(x_hat, self.sde.sigma(t) / self.sde.mu(t))
            # A sum: each trajectory's gradient is its own, whatever else is in the batch.
            (gradient,) = torch.autograd.grad(potential.sum(), x)
        return eps.detach() - sigma * gradient

    def _estimate(self, x: Tensor, t: Tensor) -> Tensor:
        if not self.likelihood.detach:
            return self.network(x, t)
        with torch.no_grad():
            return self.network(x, t)
