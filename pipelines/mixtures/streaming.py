"""From a store of densities to a store of mixtures, a block of rows at a time."""

import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from kernels.gmm import Policy
from kernels.gmm.inference import CompiledRefiner
from pipelines.mixtures.fitting import FLAGS, Fitted, fit_mixture, flag_counts
from pipelines.mixtures.learned import load_refiner
from pipelines.mixtures.store import DensityError, DensityStore, new_array, new_group

#: Rows of a block, and of a chunk of what is written: about 20 MB at work on 96 points.
ROWS = 8192


class Summary(NamedTuple):
    """What became of the densities of a store.

    Attributes:
        densities: How many there are.
        fitted: How many have a mixture.
        kl_mean: Over the fitted, in nats; NaN if there are none, as below.
        kl_median: Over the fitted.
        kl_p99: Over the fitted.
        flags: How many rows have each flag.
        fallback_rate: Share of the learned fits that the classical solver made again.
    """

    densities: int
    fitted: int
    kl_mean: float
    kl_median: float
    kl_p99: float
    flags: dict[str, int]
    fallback_rate: float


def fit_store(
    densities: DensityStore,
    out: Path | str,
    components: int,
    *,
    model: str | Path | None = None,
    policy: Policy = "report",
    rows: int = ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Fit every density of a store; the mixtures appear whole or not at all.

    Beside one block only the divergences and the flags are kept in memory, 9 bytes a density. What
    is written depends on ``rows`` by rounding alone.

    Args:
        densities: From :func:`pipelines.mixtures.open_densities`.
        out: The store to make, with ``weights``, ``means``, ``sigmas``, (B, K), ``kl`` and
            ``flags``, (B); docs/gmm.md describes it.
        components: K.
        model: As for :func:`pipelines.mixtures.fit_mixture`.
        policy: ``report`` or ``replace``: a row stays a row.
        rows: Densities that are fitted at once.
        progress: Called with the number of densities done and of all.

    Raises:
        DensityError: The densities cannot be read or do not fit their grid, or ``out`` is there
            already or cannot be written.
        ModelError: There is no such model.
        ValueError: The number of components is out of range, or the policy drops rows.
    """
    if policy == "drop":
        raise ValueError("policy: expected 'report' or 'replace': a store keeps its rows")
    refiner = load_refiner(model) if model is not None else None
    kl, flags = np.empty(densities.count), np.empty(densities.count, np.uint8)
    attributes = _attributes(densities, components, model)
    with new_group(Path(out), attributes) as group:
        arrays = _arrays(group, densities, components)
        for start in range(0, densities.count, rows):
            stop = min(start + rows, densities.count)
            fitted = _block(densities, start, stop, components, refiner, policy)
            for name, values in _columns(fitted).items():
                arrays[name][start:stop] = values
            kl[start:stop], flags[start:stop] = fitted.kl.numpy(), fitted.flags.numpy()
            if progress is not None:
                progress(stop, densities.count)
        summary = _summary(kl, flags)
        group.attrs.update({"fallback_rate": summary.fallback_rate})
    return summary


def _block(
    densities: DensityStore,
    start: int,
    stop: int,
    components: int,
    refiner: CompiledRefiner | None,
    policy: Policy,
) -> Fitted:
    values, grid = densities.block(start, stop)
    try:
        return fit_mixture(
            values, grid, components, kind=densities.kind, model=refiner, policy=policy
        )
    except ValueError as error:
        raise DensityError(f"{densities.path}: {densities.name}: {error}") from error


def _columns(fitted: Fitted) -> dict[str, NDArray[Any]]:
    return {
        "weights": fitted.mixture.log_weights.exp().numpy(),
        "means": fitted.mixture.means.numpy(),
        "sigmas": fitted.mixture.sigmas.numpy(),
        "kl": fitted.kl.numpy(),
        "flags": fitted.flags.numpy(),
    }


def _attributes(
    densities: DensityStore, components: int, model: str | Path | None
) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11",
        "title": f"mixtures of {components} Gaussians fitted to gridded densities",
        "source": f"{densities.path.name}/{densities.name}",
        "kind": densities.kind,
        "method": "classical" if model is None else f"learned: {model}",
        "yaoki": version("yaoki"),
    }


def _arrays(
    group: zarr.Group, densities: DensityStore, components: int
) -> dict[str, "zarr.Array[Any]"]:
    rows, pair = (densities.count,), (densities.dimension, "component")
    shape, units = (densities.count, components), densities.units
    wide = {
        "weights": {"units": "1", "long_name": "weight of the component"},
        "means": {"units": units, "long_name": "mean of the component, in order"},
        "sigmas": {"units": units, "long_name": "standard deviation of the component"},
    }
    arrays = {name: new_array(group, name, shape, pair, a, rows=ROWS) for name, a in wide.items()}
    called = {"units": "1", "long_name": "divergence of the cell masses, in nats"}
    arrays["kl"] = new_array(group, "kl", rows, pair[:1], called, rows=ROWS)
    meanings = {
        "long_name": "what was found in the density",
        "flag_masks": [1 << bit for bit in range(len(FLAGS))],
        "flag_meanings": " ".join(FLAGS),
    }
    arrays["flags"] = new_array(group, "flags", rows, pair[:1], meanings, "uint8", rows=ROWS)
    return arrays


def _summary(kl: NDArray[np.float64], flags: NDArray[np.uint8]) -> Summary:
    fitted = kl[np.isfinite(kl)]
    counts = flag_counts(flags)
    some = len(fitted) > 0
    return Summary(
        densities=len(kl),
        fitted=len(fitted),
        kl_mean=float(fitted.mean()) if some else math.nan,
        kl_median=float(np.median(fitted)) if some else math.nan,
        kl_p99=float(np.quantile(fitted, 0.99)) if some else math.nan,
        flags=counts,
        fallback_rate=counts["fallback"] / max(1, len(fitted)),
    )
