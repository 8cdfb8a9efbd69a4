"""Fit mixtures to densities in memory: learned where there is a model, classical where it fails."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kernels.gmm import Gridded, Kind, Mixture, Policy, read_gridded
from kernels.gmm.inference import CompiledRefiner
from kernels.gmm.refiner import Refiner
from pipelines.mixtures.certificate import certified, divergence
from pipelines.mixtures.classical import solve_classically
from pipelines.mixtures.learned import load_refiner, refine

#: Bits of ``Fitted.flags``, those of Findings first.
FLAGS = ("not_finite", "negative", "empty", "not_normalized", "unresolved", "fallback")
MOST_COMPONENTS = 16


class Fitted(NamedTuple):
    """Mixtures and what is known of them.

    Attributes:
        mixture: (B, K), float64, in units of the grid, means in order; NaN for rows that could
            not be fitted.
        kl: Divergence of the cell masses from the mixture's, (B), in nats.
        flags: A bit for each of ``FLAGS``, (B'), uint8, for every row that was given.
        rows: Index of the rows that were fitted, (B); all of them unless the policy is to drop.
        fallback_rate: Share of the learned fits that failed the certificate and were made again
            by the classical solver; zero without a model.
    """

    mixture: Mixture
    kl: Tensor
    flags: Tensor
    rows: Tensor
    fallback_rate: float


def fit_mixture(
    values: ArrayLike | Tensor,
    grid: ArrayLike | Tensor,
    components: int,
    *,
    kind: Kind = "point_density",
    model: str | Path | Refiner | CompiledRefiner | None = None,
    policy: Policy = "report",
) -> Fitted:
    """Fit a Gaussian mixture to each gridded density.

    Args:
        values: Densities at points, probabilities of cells, or counts, (B, N), or (N) for one.
        grid: Points (N) or edges (N + 1), increasing; or one such row for each density.
        components: K, from 1 to 16.
        kind: What the values are.
        model: None for the classical solver; ``"shipped"`` for the refiner in the package, or the
            file of one, as ``yaoki run gmm`` exports it; or the refiner itself, compiled where
            densities come one by one.
        policy: What becomes of rows that are no densities: reported (their fits are NaN), dropped,
            or replaced (what is negative is cut, what has no mass becomes uniform).

    Raises:
        ValueError: Shapes, grid, kind or number of components do not fit.
        ModelError: There is no such model, or its file cannot be read.
    """
    if not 1 <= components <= MOST_COMPONENTS:
        raise ValueError(f"components: expected 1 to {MOST_COMPONENTS}, found {components}")
    refiner = load_refiner(model) if isinstance(model, str | Path) else model
    given = _tensor(values)
    given = given[None] if given.ndim == 1 else given
    gridded, findings = read_gridded(given, _tensor(grid), kind, policy)
    if refiner is None:
        mixture, kl = solve_classically(gridded, components)
        return Fitted(mixture, kl, findings.flags, findings.kept, 0.0)
    mixture = refine(refiner, gridded, components)
    kl = divergence(gridded, mixture)
    refused = (~certified(gridded, mixture, kl)).nonzero()[:, 0]
    refused = refused[gridded.masses[refused].isfinite().all(dim=-1)]
    if len(refused):
        mixture, kl = _mended(gridded, mixture, kl, refused)
        findings.flags[findings.kept[refused]] |= 1 << FLAGS.index("fallback")
    rate = len(refused) / max(1, int(kl.isfinite().sum()))
    return Fitted(mixture, kl, findings.flags, findings.kept, rate)


def _mended(gridded: Gridded, fit: Mixture, kl: Tensor, rows: Tensor) -> tuple[Mixture, Tensor]:
    """The learned fits, and in the refused rows the classical solver's where they are nearer."""
    other, theirs = solve_classically(gridded.rows(rows), fit.means.shape[1])
    nearer = ~(kl[rows] <= theirs)  # NaN is never nearer
    chosen = rows[nearer]
    pairs = zip(fit, other, strict=True)
    mended = Mixture(*(old.index_copy(0, chosen, new[nearer]) for old, new in pairs))
    return mended, kl.index_copy(0, chosen, theirs[nearer])


def flag_counts(flags: NDArray[np.uint8], names: Sequence[str] = FLAGS) -> dict[str, int]:
    """How many rows have each flag."""
    return {name: int((flags >> bit & 1).sum()) for bit, name in enumerate(names)}


def _tensor(values: ArrayLike | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu().double()
    return torch.from_numpy(np.array(values, np.float64))
