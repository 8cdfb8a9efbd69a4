"""Predictor-corrector sampling that resumes, and whose trajectories do not see each other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.sde import VPSDE, Network


class PredictorCorrector:
    r"""Reverse diffusion from :math:`t = 1` to 0, one object a batch of trajectories.

    The predictor integrates the probability flow exactly for a constant noise estimate,

    .. math:: x \leftarrow r\,x + (\sigma_{s} - r\,\sigma_{t})\,\epsilon(x, t), \quad
              r = \mu_s / \mu_t,\ s = t - 1/N

    and each Langevin correction moves by

    .. math:: x \leftarrow x - \sigma_s\,(\delta\,\epsilon + \sqrt{2\delta}\,z), \quad
              \delta = \tau / \overline{\epsilon^2}

    where the mean is taken over one trajectory. Each trajectory draws from a generator of its
    own, so that it does not depend on which others share its batch. Noise is drawn on the CPU:
    a seed means the same noise on every device.

    Args:
        network: Noise estimator, (B, *) and (B,) to (B, *).
        sde: Perturbation kernel.
        shape: Shape of one trajectory.
        seeds: One seed a trajectory.
        steps: Number N of predictor steps.
        corrections: Langevin corrections after each.
        tau: Amplitude of the corrections.
        device: Where the states live.
        dtype: Their precision.

    Raises:
        ValueError: No seeds, or steps or corrections out of range.

    References:
        Rozet & Louppe, Score-based Data Assimilation, NeurIPS 2023, algorithm 4.
    """

    def __init__(
        self,
        network: Network,
        sde: VPSDE,
        shape: Sequence[int],
        seeds: Sequence[int],
        steps: int = 256,
        corrections: int = 1,
        tau: float = 0.5,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not seeds:
            raise ValueError("a sampler needs one seed a trajectory, found none")
        if steps < 1 or corrections < 0:
            raise ValueError(f"need steps >= 1, corrections >= 0, found {steps}, {corrections}")
        self.network, self.sde = network, sde
        self.steps, self.corrections, self.tau = steps, corrections, tau
        self.index = 0
        self._shape = tuple(shape)
        self._device, self._dtype = torch.device(device), dtype
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.x = self._noise()

    @property
    def done(self) -> bool:
        """Whether :attr:`x` is a sample."""
        return self.index == self.steps

    def step(self) -> None:
        """One predictor step and its corrections.

        Raises:
            RuntimeError: The sampling has ended.
        """
        if self.done:
            raise RuntimeError(f"sampling ended after {self.steps} steps: take .x, or start anew")
        now, after = 1 - self.index / self.steps, 1 - (self.index + 1) / self.steps
        self.x = self._predict(self.x, now, after)
        for _ in range(self.corrections):
            self.x = self._correct(self.x, after)
        self.index += 1

    def run(self, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """All the steps that are left; ``progress(done, steps)`` is called after each."""
        while not self.done:
            self.step()
            if progress is not None:
                progress(self.index, self.steps)
        return self.x

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, on the CPU: states, position, generators."""
        return {
            "x": self.x.to("cpu", copy=True),
            "index": self.index,
            "schedule": self._schedule(),
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            ValueError: The state is of another sampling: other shape, steps or corrections.
        """
        expected = (tuple(self.x.shape), self._schedule())
        found = (tuple(state["x"].shape), tuple(state["schedule"]))
        if found != expected:
            raise ValueError(
                "sampler state of another run: expected shape, (steps, corrections, tau) "
                f"{expected}, found {found}; use the settings it was saved under"
            )
        self.x = state["x"].to(self._device, self._dtype, copy=True)
        self.index = int(state["index"])
        for generator, value in zip(self._generators, state["generators"], strict=True):
            generator.set_state(value)

    def _schedule(self) -> tuple[int, int, float]:
        return self.steps, self.corrections, self.tau

    def _noise(self) -> Tensor:
        draws = [
            torch.randn(self._shape, generator=generator, dtype=self._dtype)
            for generator in self._generators
        ]
        return torch.stack(draws).to(self._device)

    def _estimate(self, x: Tensor, t: float) -> Tensor:
        with torch.no_grad():
            return self.network(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))

    def _amplitudes(self, t: float) -> tuple[float, float]:
        time = torch.tensor(t, dtype=torch.float64)
        return float(self.sde.mu(time)), float(self.sde.sigma(time))

    def _predict(self, x: Tensor, now: float, after: float) -> Tensor:
        (mu, sigma), (mu_after, sigma_after) = self._amplitudes(now), self._amplitudes(after)
        ratio = mu_after / mu
        return ratio * x + (sigma_after - ratio * sigma) * self._estimate(x, now)

    def _correct(self, x: Tensor, t: float) -> Tensor:
        _, sigma = self._amplitudes(t)
        eps, z = self._estimate(x, t), self._noise()
        # One reduction a trajectory: a reduction of the whole batch is split among threads
        # in a way that depends on the batch, and rounds differently.
        power = torch.stack([e.square().mean() for e in eps])
        delta = (self.tau / power).reshape(-1, *(1,) * len(self._shape))
        return x - sigma * (delta * eps + (2 * delta).sqrt() * z)


def sample(
    network: Network,
    sde: VPSDE,
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int = 256,
    corrections: int = 1,
    tau: float = 0.5,
) -> Tensor:
    """Samples of shape (len(seeds), *shape); see :class:`PredictorCorrector`."""
    return PredictorCorrector(network, sde, shape, seeds, steps, corrections, tau).run()
