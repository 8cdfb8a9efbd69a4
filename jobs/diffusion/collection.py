"""Stage ``collect``: verify and seal the ensemble, measure how good it is, and show it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster import Member
from jobs.collecting import save_picture, write_report
from jobs.diffusion.config import DiffusionConfig
from jobs.diffusion.observing import Scene, interpolated, scene
from jobs.outputs import ensemble_path
from kernels.flow import energy_spectrum, vorticity
from pipelines.ensemble import collect as seal
from pipelines.evaluation import crps, ensemble_mean_spread, rmse, spread_error_ratio
from pipelines.figures import LossCurve, loss_curves, spectra, vorticity_panel
from pipelines.report import Fact, Section, Table
from pipelines.statistics import save_truth
from pipelines.tracking import read_metrics

Metrics = Mapping[str, Sequence[Mapping[str, Any]]]


def collect(config: DiffusionConfig, member: Member) -> dict[str, float]:
    """Seal the ensemble, write ``report/``, and return the evaluation.

    Raises:
        EnsembleError: A member is missing or damaged.
    """
    return summarize(config, member.run)


def summarize(config: DiffusionConfig, run: Path, partial: bool = False) -> dict[str, float]:
    """Seal what is whole, evaluate it, and write the report.

    Args:
        config: The job.
        run: The run directory.
        partial: Go on although members are missing.
    """
    torch.set_num_threads(config.resources.collect.cpus)
    manifest = seal(ensemble_path(run), partial)
    samples = _samples(run, manifest["valid"])
    seen = scene(config, run)
    baseline = interpolated(config, run, seen)
    scores = evaluate(samples, seen, baseline)
    save_truth(run, {"velocity": seen.truth.numpy()})
    write_report(run, "diffusion", scores, lambda: _section(config, run, scores, samples, seen))
    return scores


def evaluate(samples: Tensor, seen: Scene, baseline: Tensor) -> dict[str, float]:
    """How good the posterior is.

    Args:
        samples: All posterior samples, (n, frames, 2, size, size).
        seen: Truth and observations.
        baseline: Optimal interpolation of the same observations.

    Returns:
        Root-mean-square errors against the truth of the posterior mean, of one sample, of the
        interpolation, and of the truth's own variation (what a guess of zero would get); CRPS;
        ratio of spread to error; standard deviation of the residual of the observations.
    """
    truth = seen.truth.numpy()
    members = samples.numpy()
    return {
        "posterior_mean_rmse": rmse(ensemble_mean_spread(members).mean, truth),
        "sample_rmse": rmse(members, np.broadcast_to(truth, members.shape)),
        "interpolation_rmse": rmse(baseline.numpy(), truth),
        "zero_rmse": rmse(np.zeros_like(truth), truth),
        "crps": crps(members, truth),
        "spread_error_ratio": spread_error_ratio(members, truth),
        "residual_std": float((seen.observe(samples) - seen.observed).std()),
        "observation_std": seen.std,
    }


def _samples(run: Path, valid: Sequence[int]) -> Tensor:
    import zarr

    array = zarr.open_array(ensemble_path(run), path="velocity", mode="r")
    return torch.from_numpy(np.concatenate([np.asarray(array[index]) for index in valid]))


def _section(
    config: DiffusionConfig, run: Path, scores: Mapping[str, float], samples: Tensor, seen: Scene
) -> Section:
    metrics = {f"member {m}": _metrics(run, m) for m in range(config.members)}
    pictures = [
        save_picture(
            run,
            "assimilation",
            _panel(config, samples, seen),
            "Vorticity: the truth, what the noisy velocities seen every few cells tell (frames in "
            "gray were not seen), and the posterior.",
            "Rows of vorticity fields over time: truth, observation, members, mean and spread.",
        ),
        save_picture(
            run,
            "losses",
            _losses(metrics),
            "Denoising loss of every member; the dashed line is the best that any linear "
            "denoiser can reach.",
            "Loss curves of the members over the training steps, with the Wiener floor.",
        ),
        save_picture(
            run,
            "spectra",
            _spectra(samples, seen),
            "Energy spectrum of the truth and of the posterior samples, averaged over time.",
            "Energy against wavenumber for the truth and the band of the samples.",
        ),
    ]
    return Section(
        "Kolmogorov flow, assimilated",
        f"{config.members} networks, {len(samples)} posterior samples, one observation.",
        _facts(config, scores),
        pictures,
        [_training_table(metrics)],
    )


def _facts(config: DiffusionConfig, scores: Mapping[str, float]) -> list[Fact]:
    gain = 1 - scores["posterior_mean_rmse"] / scores["interpolation_rmse"]
    ask = config.observation
    seen = 1 / (ask.space**2 * ask.time)
    return [
        Fact(
            "Error of the posterior mean",
            round(scores["posterior_mean_rmse"], 4),
            f"optimal interpolation {scores['interpolation_rmse']:.4f}: {abs(gain):.0%} "
            f"{'better' if gain >= 0 else 'worse'}",
        ),
        Fact("Spread over error", round(scores["spread_error_ratio"], 3), "1 is calibrated"),
        Fact("CRPS", round(scores["crps"], 4), "of the velocity; less is better"),
        Fact(
            "Residual of the observations",
            round(scores["residual_std"], 4),
            f"their noise is {scores['observation_std']}",
        ),
        Fact("Observed", f"{seen:.1%}", f"every {ask.space} cells, every {ask.time} frames"),
    ]


def _training_table(metrics: Metrics) -> Table:
    rows = []
    for name, history in metrics.items():
        if history:
            last = history[-1]
            best = min((row["validation"] for row in history if "validation" in row), default=None)
            rows.append([name, last["step"], last["loss"], best, int(last["skipped"])])
    columns = ["Member", "Steps", "Training loss", "Best validation", "Skipped steps"]
    return Table("Training", columns, rows)


def _metrics(run: Path, member: int) -> list[dict[str, Any]]:
    path = Member(run, "train", member).directory / "metrics.jsonl"
    return [dict(row) for row in read_metrics(path)] if path.exists() else []


def _losses(metrics: Metrics) -> Any:
    curves, floor = {}, None
    for name, history in metrics.items():
        curves[name] = LossCurve.of(history)
        floor = history[0]["wiener_floor"] if history else floor
    return loss_curves(curves, floor, "Wiener floor", "denoising loss")


def _panel(config: DiffusionConfig, samples: Tensor, seen: Scene) -> Any:
    members = vorticity(samples).numpy()
    moments = ensemble_mean_spread(members)
    times = [round(n * config.simulation.frame, 3) for n in range(len(seen.truth))]
    first_of_each = members[:: config.assimilation.samples]
    return vorticity_panel(
        vorticity(seen.truth).numpy(),
        first_of_each,
        moments.mean,
        moments.spread,
        _coarse_vorticity(seen),
        times,
    )


def _coarse_vorticity(seen: Scene) -> NDArray[Any]:
    """Vorticity of the observed velocities on their own coarse grid; NaN in frames unseen."""
    shown = np.full(seen.truth[:, 0].shape, np.nan)
    coarse = vorticity(seen.observed).numpy()
    shown[:: seen.time] = coarse.repeat(seen.space, axis=-2).repeat(seen.space, axis=-1)
    return shown


def _spectra(samples: Tensor, seen: Scene) -> Any:
    truth = energy_spectrum(seen.truth).mean(dim=0).numpy()
    members: NDArray[Any] = energy_spectrum(samples).mean(dim=1).numpy()
    return spectra(np.arange(len(truth)), truth, members)
