"""Inference with a trained refiner, compiled, one density after another."""

import numpy as np
import torch
from torch import Tensor, nn

from kernels.gmm.em import sigma_floor
from kernels.gmm.fused_normal import Array
from kernels.gmm.fused_refiner import Rules, refine_all
from kernels.gmm.fused_start import Network
from kernels.gmm.gridded import Gridded
from kernels.gmm.initnet import InitNet
from kernels.gmm.mixture import Mixture
from kernels.gmm.refiner import Refiner
from kernels.gmm.start import recipes

#: Runs of cells that hold less than this are fitted as one: an empty cell costs what others do.
MERGED = 1e-9
#: Other starts, and the divergence in nats above which they are tried.
RIVALS, POOR = 1, 1e-4


def infer(
    refiner: Refiner,
    gridded: Gridded,
    components: int,
    *,
    steps: int = 12,
    enough: float = 1e-7,
    merged: float = MERGED,
    rivals: int = RIVALS,
    poor: float = POOR,
) -> Mixture:
    """Fit mixtures by a refiner: its blocks, and then the last of them again, as far as it pays.

    Args:
        refiner: On the CPU.
        gridded: Densities, (B, N).
        components: K, at most 16.
        steps: At most so many a density. After the blocks the last one is repeated; with as many
            steps as blocks, nothing left out or merged and no rivals, this is ``refiner`` itself.
        enough: Stop a density where the next step promises to lower the divergence by less.
        merged: Fit runs of cells with less mass as one cell; negative for never.
        rivals: Other starts, of :func:`kernels.gmm.start.quantile_start`, at most.
        poor: They are tried one after another where the divergence is above this, in nats.

    Returns:
        (B, K), float64, means in order. NaN where the masses are not finite. The same to the bit
        in any batch.

    Raises:
        ValueError: No components, or more than MAX_COMPONENTS.
    """
    network = _network(refiner.start, components)
    rules = Rules(_table(refiner), steps, enough, merged, sigma_floor(gridded.kind), poor)
    others = recipes(components, rivals)
    out = np.empty((len(gridded.masses), 3, components))
    refine_all(_array(gridded.masses), _array(gridded.edges), network, others, rules, out)
    return Mixture(*torch.from_numpy(out).unbind(1))


def _network(start: InitNet, components: int) -> Network:
    head = start.head(components)
    count = start.count.weight[components - 1]
    return Network(
        _array(start.normal),
        _array(torch.special.ndtr(start.normal)),
        _array(start.places),
        *(_array(start.first.weight.T), _array(start.first.bias + count)),
        *_weights(start.second),
        *_weights(head),
    )


def _weights(layer: nn.Linear) -> tuple[Array, Array]:
    return _array(layer.weight.T), _array(layer.bias)


def _table(refiner: Refiner) -> Array:
    with torch.no_grad():
        rows = [torch.cat([b.damping, b.longest[None], b.step_sizes]) for b in refiner.steps]
        return _array(torch.stack(rows))


def _array(tensor: Tensor) -> Array:
    """In float64, rows together."""
    return np.ascontiguousarray(tensor.detach().numpy(), np.float64)
