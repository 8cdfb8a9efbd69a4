"""How a trained network does on its test days: free runs, scores by site, errors by lead."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster import Attempt, Member
from jobs.lstm.config import LstmConfig
from jobs.lstm.samples import Samples
from jobs.outputs import ensemble_path
from kernels.lstm import StaticDynamicLSTM, mass_residual
from pipelines.ensemble import ArraySpec, create_ensemble, gather_provenance, write_member
from pipelines.fluxes.forecasts import (
    Windows,
    climatology,
    cut,
    forecast_windows,
    on_days,
    persistence,
)
from pipelines.fluxes.records import FluxRecords
from pipelines.fluxes.scores import SCORES
from pipelines.plan import identity
from pipelines.seeds import derived_seed

Arrays = dict[str, NDArray[Any]]

#: What is scored: the network, and what any network must beat.
METHODS = ("network", "climatology", "persistence")
#: What drift is a share of: the carbon taken up meanwhile, or the net exchange of all days.
SHARES_OF = ("gpp", "nep")


def free_run(
    network: StaticDynamicLSTM,
    samples: Samples,
    where: Windows,
    horizon: int | None = None,
    *,
    teacher: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Forecasts of windows, (N, horizon, F), and the attention (L, P) in the first of them.

    The horizon is the configuration's unless it is given; a longer one takes fewer windows at once.
    No flux of a predicted day is given to the network, which is in evaluation mode meanwhile;
    with a ``teacher`` it hears that of the day before, and this is no forecast.
    """
    ask, past = samples.config.evaluation, samples.config.windows.context
    device, before = next(network.parameters()).device, network.training
    network.eval()
    ahead = horizon or ask.horizon
    count = max(1, ask.batch * ask.horizon // max(ahead, ask.horizon))
    found = []
    with torch.no_grad():
        for start in range(0, len(where), count):
            rows = where[start : start + count]
            some = samples.batch(rows, ahead).part(slice(None), device)
            seen, known = some.dynamic[:, :past], some.dynamic[:, past:]
            fluxes = (some.fluxes[:, past:] if teacher else None), some.fluxes[:, :past]
            forcing = float(teacher)
            found.append(network(seen, some.static, known, *fluxes, teacher_forcing=forcing))
    network.train(before)
    first = found[0].attention
    outputs = torch.cat([each.outputs for each in found]).cpu()
    return outputs, None if first is None else first[0].cpu()


def with_baseline(outputs: Tensor, samples: Samples, where: Windows) -> Tensor:
    """Forecasts of fluxes out of what a network says of windows, (N, horizon, F).

    Where its anomalies add up, so do the sums, to the last bit.
    """
    if samples.baseline is None:
        return outputs
    past = samples.config.windows.context
    known = cut(samples.baseline.astype(np.float32), where, past, outputs.shape[1])
    fluxes = outputs + torch.from_numpy(known)
    if samples.config.network.head == "exchange":
        gpp, reco, _ = fluxes.unbind(-1)
        fluxes = torch.stack((gpp, reco, reco - gpp), dim=-1)
    return fluxes


def tested(network: StaticDynamicLSTM, samples: Samples) -> Arrays:
    """All arrays of a member, by name."""
    records, past = samples.records, samples.config.windows.context
    horizon = samples.config.evaluation.horizon
    where = forecast_windows(samples.split.test, past, horizon)
    outputs, attention = free_run(network, samples, where)
    outputs = with_baseline(outputs, samples, where)
    seasons = climatology(records, samples.split.training)
    forecasts = {
        "network": outputs.double().numpy(),
        "climatology": cut(seasons, where, past, horizon),
        "persistence": persistence(records.fluxes, where, past, horizon),
    }
    observed = cut(records.fluxes, where, past, horizon)
    shape = (len(records.sites), len(records.days))
    by_day = {name: on_days(values, where, past, shape) for name, values in forecasts.items()}
    scores = [
        np.stack([score(values, records.fluxes) for score in SCORES.values()])
        for values in by_day.values()
    ]
    errors = [_mean_squares(values - observed) for values in forecasts.values()]
    empty = np.full((past + horizon, len(records.static_names)), np.nan)
    found = {
        "predictions": by_day["network"],
        "scores": np.stack(scores),
        "teacher_forced": _teacher_forced(network, samples, where),
        "error_by_lead": np.stack(errors),
        "mass_residual": mass_residual(outputs).max().reshape(1).numpy(),
        "attention": empty if attention is None else attention,
    }
    return {name: np.asarray(values, np.float32) for name, values in found.items()}


def _mean_squares(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over windows, (N, horizon, F), gaps left out; NaN where there is nothing else."""
    known = np.isfinite(errors)
    sums, counts = np.where(known, errors**2, 0.0).sum(axis=0), known.sum(axis=0)
    empty = np.full(sums.shape, np.nan)
    return np.asarray(np.divide(sums, counts, out=empty, where=counts > 0))


def _teacher_forced(
    network: StaticDynamicLSTM, samples: Samples, where: Windows
) -> NDArray[np.float64]:
    """Scores (score, S, F) of an autoregressive network that is told the truth of each day before;
    NaN for another."""
    fluxes = samples.records.fluxes
    if not samples.config.network.autoregressive:
        return np.full((len(SCORES), len(fluxes), fluxes.shape[-1]), np.nan)
    outputs, _ = free_run(network, samples, where, teacher=True)
    past, shape = samples.config.windows.context, fluxes.shape[:2]
    outputs = with_baseline(outputs, samples, where)
    by_day = on_days(outputs.double().numpy(), where, past, shape)
    return np.stack([score(by_day, fluxes) for score in SCORES.values()])


def commit(
    config: LstmConfig,
    member: Member,
    attempt: Attempt,
    records: FluxRecords,
    found: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """Write a member into the ensemble; its commit says what is told of it besides."""
    path = ensemble_path(member.run)
    attributes = {
        "title": "Carbon fluxes predicted by LSTMs on days that they were not trained on",
        "config_digest": identity(config),
        "flux_names": list(records.flux_names),
        "flux_units": "gC m-2 d-1",
        "methods": list(METHODS),
        "score_names": list(SCORES),
        "static_names": list(records.static_names),
        "shares_of": list(SHARES_OF),
    }
    create_ensemble(path, config.members, layout(config, records), attributes)
    seed = derived_seed(config.seed, "train", config.seed_number(member.index))
    provenance = gather_provenance(identity(config), seed) | dict(told)
    write_member(path, member.index, found, provenance, attempt.number)


def layout(config: LstmConfig, records: FluxRecords) -> list[ArraySpec]:
    """What a member writes; days that it did not predict, and sites, are NaN."""
    sites, days, horizon = len(records.sites), len(records.days), config.evaluation.horizon
    methods, fluxes, slots = len(METHODS), len(records.flux_names), len(records.static_names)
    length = config.windows.context + horizon
    years = config.evaluation.drift_years
    return [
        *([_drift_array(sites, years)] if years else []),
        ArraySpec(
            "predictions",
            (sites, days, fluxes),
            ("site", "day", "flux"),
            units="gC m-2 d-1",
            long_name="fluxes of test days, free-running",
            codec="lz4-bitshuffle",
        ),
        ArraySpec(
            "scores",
            (methods, len(SCORES), sites, fluxes),
            ("method", "score", "site", "flux"),
            long_name="scores over the test days of each site",
        ),
        ArraySpec(
            "teacher_forced",
            (len(SCORES), sites, fluxes),
            ("score", "site", "flux"),
            long_name="scores of a network that hears the truth of each day before",
        ),
        ArraySpec(
            "error_by_lead",
            (methods, horizon, fluxes),
            ("method", "lead", "flux"),
            units="gC2 m-4 d-2",
            long_name="mean squared error by days since the last observation",
        ),
        ArraySpec(
            "mass_residual",
            (1,),
            ("largest",),
            units="gC m-2 d-1",
            long_name="how far the fluxes do not add up, the largest of all",
        ),
        ArraySpec(
            "attention",
            (length, slots),
            ("day_of_window", "slot"),
            long_name="weights of static features in the first test window",
        ),
    ]


def _drift_array(sites: int, years: int) -> ArraySpec:
    return ArraySpec(
        "nep_drift",
        (sites, years, len(SHARES_OF)),
        ("site", "year", "share_of"),
        long_name="error of the sum of NEP by years of one free run, over that of a flux's size",
    )
