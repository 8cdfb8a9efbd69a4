"""Stage ``evaluate``: each member fits the test densities, those of unseen families included."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster import Attempt, Member
from jobs.gmm.config import GmmConfig, seed_number
from jobs.gmm.training import final, trained
from kernels.gmm.families import FAMILIES, Batch, draw_batch, uniform_edges
from kernels.gmm.gridded import Gridded, gridded_moments, kl_divergence
from kernels.gmm.mixture import Mixture, cdf, quantile
from kernels.gmm.refiner import Refiner
from pipelines.ensemble import (
    ArraySpec,
    Coordinate,
    create_ensemble,
    gather_provenance,
    write_member,
)
from pipelines.plan import identity
from pipelines.seeds import derived_seed, generator
from pipelines.training.loop import make_deterministic

#: Probability of less than three standard deviations above the mean, of a Gaussian.
TAIL = float(torch.special.ndtr(torch.tensor(3.0, dtype=torch.float64)))

#: What is measured of each fit; the rest of the ensemble's arrays are the mixtures.
MEASURES = {
    "kl": "divergence of the fitted cell masses from the exact ones",
    "cdf_error": "greatest error of the distribution function at the cell edges",
    "tail_error": "error of the quantile at 3 sigma, in standard deviations of the density",
}


class TestSet:
    """The densities that all members are measured on, with what is known of them exactly.

    Args:
        config: The job.
    """

    __test__ = False

    def __init__(self, config: GmmConfig) -> None:
        self.names = tuple(FAMILIES)
        count = len(self.names) * config.evaluation.densities
        edges = uniform_edges(config.evaluation.points)
        self.drawn: Batch = draw_batch(self.names, count, edges, generator(config.seed, "evaluate"))
        self.gridded = Gridded(self.drawn.masses(), edges[None])
        tail = torch.tensor([TAIL], dtype=torch.float64)
        self.tail = self.drawn.quantile(tail).squeeze(-1)
        self.sd = gridded_moments(self.gridded)[1].sqrt()

    def measured(self, fit: Mixture) -> dict[str, Tensor]:
        """How good a fit is, in float64: one value a density for each of :data:`MEASURES`."""
        fit = fit.to(torch.float64)
        exact = self.gridded.masses.cumsum(dim=-1)
        error = cdf(fit, self.gridded.edges)[:, 1:] - exact
        tail = torch.tensor([TAIL], dtype=torch.float64)
        return {
            "kl": kl_divergence(self.gridded, fit),
            "cdf_error": error.abs().amax(dim=-1),
            "tail_error": (quantile(fit, tail).squeeze(-1) - self.tail) / self.sd,
        }


class Evaluation:
    """Fits of one network, one number of components a step.

    Args:
        config: The job.
        network: The network.
        test: The densities.
    """

    def __init__(self, config: GmmConfig, network: Refiner, test: TestSet) -> None:
        self.config, self.network, self.test = config, network, test
        self.found: list[dict[str, Tensor]] = []

    @property
    def steps_done(self) -> int:
        """Numbers of components that are done."""
        return len(self.found)

    @property
    def steps_total(self) -> int:
        """How many there are."""
        return len(self.config.evaluation.components)

    def step(self) -> None:
        """Fit all densities with the next number of components, and measure the fits."""
        components = self.config.evaluation.components[self.steps_done]
        fit = final(self.network, self.test.gridded.to(torch.float32), components)
        measures = {name: value.float() for name, value in self.test.measured(fit).items()}
        self.found.append(fit._asdict() | measures)

    def state_dict(self) -> Mapping[str, Any]:
        """What was found so far."""
        return {"found": list(self.found)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.found = list(state["found"])

    def result(self) -> dict[str, Any]:
        """All arrays of the member, by name; components that a mixture does not have are NaN."""
        most = max(self.config.evaluation.components)
        return {
            name: torch.stack([_padded(f[name], most) for f in self.found]).numpy()
            for name in self.found[0]
        }


def _padded(values: Tensor, most: int) -> Tensor:
    if values.ndim == 1:  # a measure: one value a density
        return values
    return torch.nn.functional.pad(values, (0, most - values.shape[-1]), value=torch.nan)


def ensemble_path(run: Path) -> Path:
    """Where the ensemble lies in the run directory."""
    return run / "ensemble.zarr"


def evaluate(config: GmmConfig, member: Member, attempt: Attempt) -> float:
    """Fit the test densities and commit the mixtures; returns the mean divergence."""
    seed = derived_seed(config.seed, "evaluate", member.index)
    make_deterministic(config.resources.evaluate.cpus, seed)
    network = trained(config, member.run, member.index)
    evaluation = Evaluation(config, network, TestSet(config))
    attempt.restore(evaluation)
    for _ in attempt.steps(evaluation):
        evaluation.step()
    found = evaluation.result()
    path = ensemble_path(member.run)
    attributes = _attributes(config, evaluation.test)
    create_ensemble(path, config.members, layout(config), attributes, _coordinates(config))
    trained_from = derived_seed(config.seed, "train", seed_number(config, member.index))
    provenance = gather_provenance(identity(config), trained_from)
    write_member(path, member.index, found, provenance, attempt.number)
    return float(found["kl"].mean())


def layout(config: GmmConfig) -> list[ArraySpec]:
    """What a member writes."""
    ask = config.evaluation
    shape = (len(ask.components), len(FAMILIES) * ask.densities)
    most = max(ask.components)
    parts = {
        "log_weights": "logarithm of the weights",
        "means": "means, in the unit of the grid",
        "sigmas": "standard deviations of the components, in the unit of the grid",
    }
    return [
        ArraySpec(name, (*shape, most), ("components", "density", "component"), long_name=text)
        for name, text in parts.items()
    ] + [
        ArraySpec(name, shape, ("components", "density"), long_name=text)
        for name, text in MEASURES.items()
    ]


def _coordinates(config: GmmConfig) -> list[Coordinate]:
    sizes = torch.tensor(config.evaluation.components).numpy()
    return [Coordinate("components", sizes, long_name="number of components asked for")]


def _attributes(config: GmmConfig, test: TestSet) -> dict[str, Any]:
    return {
        "title": "Gaussian mixtures fitted to the test densities",
        "config_digest": identity(config),
        "families": list(test.names),
        "densities_of_each": config.evaluation.densities,
    }
