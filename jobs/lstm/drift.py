"""How far the net production of a network drifts from the truth in one free run over years."""

import numpy as np

from jobs.lstm.evaluation import SHARES_OF, Arrays, free_run, with_baseline
from jobs.lstm.samples import Samples
from kernels.lstm import StaticDynamicLSTM
from pipelines.fluxes.forecasts import cut, forecast_windows
from pipelines.fluxes.scores import drift
from pipelines.fluxes.simulation import FLUXES


def drifted(network: StaticDynamicLSTM, samples: Samples) -> Arrays:
    """The error of the sum of NEP since a run began, ``nep_drift``, if the configuration asks.

    It is (site, year, share of), and NaN where a site was not tested or a split does not drift.
    The run begins after the first context of a test site's record and hears no flux.
    """
    records, ask, past = samples.records, samples.config, samples.config.windows.context
    ends = ask.evaluation.drift_ends
    found = np.full((len(records.sites), len(ends), len(SHARES_OF)), np.nan, np.float32)
    if ask.drifts:
        windows = forecast_windows(samples.split.test, past, ends[-1])
        where = windows[np.unique(windows[:, 0], return_index=True)[1]]
        outputs, _ = free_run(network, samples, where, ends[-1])
        predicted = with_baseline(outputs, samples, where).double().numpy()
        observed = cut(records.fluxes, where, past, ends[-1])
        nep = FLUXES.index("nep")
        for n, flux in enumerate(SHARES_OF):
            passed = observed[..., FLUXES.index(flux)]
            shares = drift(predicted[..., nep], observed[..., nep], passed, ends)
            found[where[:, 0], :, n] = shares
    return {"nep_drift": found} if ends else {}
