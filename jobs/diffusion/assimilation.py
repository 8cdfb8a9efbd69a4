"""Stage ``assimilate``: each member samples the posterior of the observed trajectory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cluster import Attempt, Member
from jobs.diffusion.config import DiffusionConfig
from jobs.diffusion.observing import Scene, scene
from jobs.diffusion.pictures import shades
from jobs.diffusion.scores import COMPONENTS, perturbation, trained_score
from jobs.outputs import ensemble_path, tracker, weights_path
from kernels.guidance import GaussianLikelihood, GuidedScore
from kernels.samplers import PredictorCorrector
from pipelines.ensemble import ArraySpec, create_ensemble, gather_provenance, write_member
from pipelines.plan import identity
from pipelines.seeds import derived_seed
from pipelines.training.loop import make_deterministic


class Sampling:
    """Posterior samples of one score, step by step of the reverse diffusion.

    Args:
        config: The job.
        seen: What was observed.
        member: Whose score it is.
        run: The run directory.
    """

    def __init__(self, config: DiffusionConfig, seen: Scene, member: int, run: Path) -> None:
        ask = config.assimilation
        device = "cuda" if torch.cuda.is_available() else "cpu"
        weights = torch.load(weights_path(run, member), map_location=device, weights_only=True)
        score = trained_score(config, weights).to(device)
        likelihood = GaussianLikelihood(seen.observe, seen.observed.to(device), seen.std, ask.gamma)
        sde = perturbation(config)
        self.sampler = PredictorCorrector(
            GuidedScore(score, likelihood, sde),
            sde,
            tuple(seen.truth.shape),
            [derived_seed(config.seed, "posterior", member, n) for n in range(ask.samples)],
            ask.steps,
            ask.corrections,
            ask.tau,
            device=device,
        )

    @property
    def steps_done(self) -> int:
        """Predictor steps done."""
        return self.sampler.index

    @property
    def steps_total(self) -> int:
        """Predictor steps in all."""
        return self.sampler.steps

    def step(self) -> None:
        """One predictor step and its corrections."""
        self.sampler.step()

    def state_dict(self) -> Mapping[str, Any]:
        """State of the sampler."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.sampler.load_state_dict(dict(state))


def assimilate(config: DiffusionConfig, member: Member, attempt: Attempt) -> float:
    """Sample the posterior, commit the samples; returns the residual of the observations."""
    seed = derived_seed(config.seed, "assimilate", member.index)
    make_deterministic(config.resources.assimilate.cpus, seed)
    seen = scene(config, member.run)
    sampling = Sampling(config, seen, member.index, member.run)
    attempt.restore(sampling)
    for _ in attempt.steps(sampling):
        sampling.step()
    samples = sampling.sampler.x.cpu()
    with tracker(config.tracking, config, member, attempt) as tracking:
        if attempt.number > 1:
            tracking.rewind(sampling.steps_done - 1)  # one that came this far logged it before
        picture = shades([[sample[-1] for sample in samples]])
        tracking.log_image("samples", picture, sampling.steps_done)
    path = ensemble_path(member.run)
    create_ensemble(path, config.members, [layout(config)], _attributes(config))
    trained_from = derived_seed(config.seed, "train", member.index)
    provenance = gather_provenance(identity(config), trained_from)
    write_member(path, member.index, {"velocity": samples.numpy()}, provenance, attempt.number)
    return float((seen.observe(samples) - seen.observed).std())


def layout(config: DiffusionConfig) -> ArraySpec:
    """What a member writes."""
    size = config.simulation.size
    ask = config.assimilation
    return ArraySpec(
        "velocity",
        (ask.samples, ask.frames, COMPONENTS, size, size),
        ("sample", "time", "component", "y", "x"),
        "float32",
        units="1",
        long_name="velocity in units of the forcing scale",
    )


def _attributes(config: DiffusionConfig) -> dict[str, Any]:
    return {
        "title": "Posterior samples of Kolmogorov flow",
        "config_digest": identity(config),
        "frame_interval": config.simulation.frame,
    }
