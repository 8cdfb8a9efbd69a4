"""Methods that fit mixtures to gridded densities, each as a function of densities and K."""

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.gmm import Gridded, Mixture, Standardization, cross_entropy, descent, fused
from kernels.gmm.descent import Descent, Method
from kernels.gmm.inference import infer
from kernels.gmm.start import quantile_start
from pipelines.mixtures import fit_mixture, load_refiner

Array = NDArray[np.float64]
_SAMPLES = 2000


class Contender(NamedTuple):
    """A method.

    Attributes:
        name: As in the tables.
        fit: Densities and K to mixtures.
        slow: Takes milliseconds a density: runs on some of them.
    """

    name: str
    fit: Callable[[Gridded, int], Mixture]
    slow: bool = False


def contenders(model: str | Path | None, seed: int) -> list[Contender]:
    """All of them; the learned one if there is a model, its file or ``"shipped"``."""
    found = [
        Contender("EM 8", partial(_descent, "em", 8)),
        Contender("EM 200", partial(_descent, "em", 200)),
        Contender("EM 2000", partial(_descent, "em", 2000)),
        *(Contender(f"SQUAREM {n}", partial(_descent, "squarem", n)) for n in (33, 66, 201)),
        Contender("Anderson 64", partial(_descent, "anderson", 64)),
        Contender("scoring 8", partial(_descent, "scoring", 8)),
        Contender("10 starts + SQUAREM", partial(_multistart, 10, 330, seed)),
        Contender("L-BFGS", _lbfgs, slow=True),
        Contender("classical (yaoki)", partial(_fitted, None)),
    ]
    if find_spec("sklearn") is not None:
        found.append(Contender("scikit-learn, 2,000", partial(_sklearn, seed), slow=True))
    if model is not None:
        found += (Contender(f"learned, {n} steps", partial(_steps, model, n)) for n in (0, 4, 8))
        found.append(Contender("learned (yaoki)", partial(_fitted, model)))
    return found


def _descent(method: Method, budget: int, gridded: Gridded, components: int) -> Mixture:
    return _descended(gridded, quantile_start(gridded, components), method, budget).mixture


def _descended(gridded: Gridded, start: Mixture, method: Method, budget: int) -> Descent:
    """With the whole budget, compiled where the method is."""
    descend = descent.descend if method == "anderson" else fused.descend
    return descend(gridded, start, method=method, budget=budget, tolerance=0.0)


def _multistart(starts: int, budget: int, seed: int, gridded: Gridded, components: int) -> Mixture:
    """The best of the quantile start and others with means drawn from the density itself."""
    best = _descended(gridded, quantile_start(gridded, components), "squarem", budget)
    generator = torch.Generator().manual_seed(seed)
    m, kl = best.mixture, best.kl
    for _ in range(starts - 1):
        start = quantile_start(gridded, components)
        start = start._replace(means=_drawn(gridded, components, generator))
        other = _descended(gridded, start, "squarem", budget)
        nearer = other.kl < kl
        parts = zip(m, other.mixture, strict=True)
        m = Mixture(*(torch.where(nearer[:, None], new, old) for old, new in parts))
        kl = torch.minimum(kl, other.kl)
    return m


def _drawn(gridded: Gridded, count: int, generator: torch.Generator) -> Tensor:
    """Points (B, count) drawn from the densities, evenly within a cell."""
    cells = torch.multinomial(gridded.masses, count, replacement=True, generator=generator)
    place = torch.rand(cells.shape, generator=generator, dtype=torch.float64)
    edges = gridded.edges.expand(len(cells), -1)
    low, high = edges.gather(1, cells), edges.gather(1, cells + 1)
    return low + place * (high - low)


def _fitted(model: str | Path | None, gridded: Gridded, components: int) -> Mixture:
    """As a user has it: with its checks, its certificate and its fallback."""
    edges = gridded.edges[0] if len(gridded.edges) == 1 else gridded.edges
    return fit_mixture(gridded.masses, edges, components, kind="cell_mass", model=model).mixture


def _steps(model: str | Path, steps: int, gridded: Gridded, components: int) -> Mixture:
    """The network's start and so many steps: no rival start, certificate or fallback."""
    refiner = load_refiner(model)
    return infer(refiner, gridded, components, steps=steps, enough=1e-6, rivals=0)


def _lbfgs(gridded: Gridded, components: int) -> Mixture:
    """SciPy's L-BFGS on log weights, means and log sigmas, in standard coordinates."""
    change = Standardization.of(gridded)
    inside = change.forward(gridded)
    start = change.mixture(quantile_start(gridded, components))
    first = torch.cat([start.log_weights, start.means, start.sigmas.log()], dim=1)
    found = []
    for row in range(len(first)):
        part = inside.rows(torch.tensor([row]))
        done = scipy.optimize.minimize(
            partial(_loss, part),
            first[row].numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 200},
        )
        found.append(torch.from_numpy(done.x))
    return change.inverse(_mixture(torch.stack(found)))


def _loss(gridded: Gridded, theta: Array) -> tuple[float, Array]:
    free = torch.from_numpy(theta)[None].requires_grad_()
    value = cross_entropy(gridded, _mixture(free)).sum()
    (slope,) = torch.autograd.grad(value, free)
    return float(value.detach()), np.nan_to_num(slope[0].numpy())


def _mixture(theta: Tensor) -> Mixture:
    weights, means, log_sigmas = theta.chunk(3, dim=1)
    return Mixture(weights.log_softmax(dim=1), means, log_sigmas.clamp(-8, 4).exp())


def _sklearn(seed: int, gridded: Gridded, components: int) -> Mixture:
    """What is done where nothing takes weights: draw samples, fit those."""
    sklearn = import_module("sklearn.mixture")
    samples = _drawn(gridded, _SAMPLES, torch.Generator().manual_seed(seed)).numpy()
    parts = []
    for row in samples:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge
            fit = sklearn.GaussianMixture(components, random_state=seed % 2**32).fit(row[:, None])
        parts.append((np.log(fit.weights_), fit.means_[:, 0], np.sqrt(fit.covariances_[:, 0, 0])))
    return Mixture(*(torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True)))
