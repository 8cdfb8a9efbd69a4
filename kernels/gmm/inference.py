"""Inference with a trained refiner: a batched network, then the compiled blocks."""

import torch

from kernels.gmm.fused_normal import Array
from kernels.gmm.fused_refiner import Rules, refine_all
from kernels.gmm.gridded import Gridded, Standardization
from kernels.gmm.mixture import Mixture
from kernels.gmm.refiner import Refiner
from kernels.gmm.transform import ParameterTransform

#: Runs of cells that hold less than this are fitted as one: an empty cell costs what others do.
MERGED = 1e-9
#: Densities at a time: the features of more would leave the cache.
_CHUNK = 4096


def infer(
    refiner: Refiner,
    gridded: Gridded,
    components: int,
    *,
    steps: int = 12,
    enough: float = 1e-7,
    merged: float = MERGED,
) -> Mixture:
    """Fit mixtures by a refiner: its blocks, and then the last of them again, as far as it pays.

    Args:
        refiner: On the CPU.
        gridded: Densities, (B, N).
        components: K, at most 16.
        steps: At most so many a density. After the blocks the last one is repeated; with as many
            steps as blocks, nothing left out and nothing merged, this is ``refiner`` itself.
        enough: Stop a density where the next step promises to lower the divergence by less.
        merged: Fit runs of cells with less mass as one cell; negative for never.

    Returns:
        (B, K), float64, means in order. NaN where the masses are not finite.
    """
    k, size = components, len(gridded.masses)
    rules = Rules(_table(refiner), steps, enough, merged)
    parts = [
        _infer(refiner, gridded.rows(torch.arange(start, min(start + _CHUNK, size))), k, rules)
        for start in range(0, size, _CHUNK)
    ]
    return Mixture(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@torch.no_grad()
def _infer(refiner: Refiner, gridded: Gridded, components: int, rules: Rules) -> Mixture:
    gridded = gridded.to(torch.float64)
    standard = Standardization.of(gridded)
    inside = standard.forward(gridded)
    transform = ParameterTransform.of(inside)
    start, dampings = refiner.start(inside, components, transform)
    limits = torch.cat([tensor.expand(len(inside.masses), 1) for tensor in transform], dim=-1)
    theta = torch.stack([start.log_weights, start.means, start.sigmas.log()], dim=1).numpy()
    refine_all(
        inside.edges.numpy(),
        inside.masses.numpy(),
        theta,
        dampings.double().numpy(),
        limits.numpy(),
        rules,
    )
    weights, means, log_sigmas = torch.from_numpy(theta).unbind(1)
    return standard.inverse(Mixture(weights, means, log_sigmas.exp()))


def _table(refiner: Refiner) -> Array:
    rows = [torch.cat([b.damping, b.longest[None], b.step_sizes]) for b in refiner.steps]
    table: Array = torch.stack(rows).detach().double().numpy()
    return table
