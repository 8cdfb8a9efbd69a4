"""Stage ``evaluate``: each member fits the test densities, those of unseen families included."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cluster import Attempt, Member
from jobs.gmm.config import GmmConfig
from jobs.gmm.measuring import MEASURES, TestSet
from jobs.gmm.training import trained
from jobs.outputs import ensemble_path
from kernels.gmm.families import FAMILIES
from kernels.gmm.inference import infer
from kernels.gmm.refiner import Refiner
from pipelines.ensemble import (
    ArraySpec,
    Coordinate,
    create_ensemble,
    gather_provenance,
    write_member,
)
from pipelines.plan import identity
from pipelines.seeds import derived_seed
from pipelines.training.loop import make_deterministic


class Evaluation:
    """Fits of one network as a user gets them, one number of components a step.

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
        fit = infer(self.network, self.test.gridded, components)
        found = fit._asdict() | self.test.measured(fit)
        self.found.append({name: value.float() for name, value in found.items()})

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
    trained_from = derived_seed(config.seed, "train", config.seed_number(member.index))
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
