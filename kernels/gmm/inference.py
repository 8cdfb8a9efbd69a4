"""Inference with a trained refiner, compiled, one density after another."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kernels.gmm.em import sigma_floor
from kernels.gmm.fused_normal import Array
from kernels.gmm.fused_refiner import Rules, refine_all
from kernels.gmm.fused_start import Network
from kernels.gmm.gridded import Gridded, as_array
from kernels.gmm.initnet import MAX_COMPONENTS
from kernels.gmm.mixture import Mixture
from kernels.gmm.refiner import Refiner
from kernels.gmm.start import recipes

#: Runs of cells that hold less than this are fitted as one: an empty cell costs what others do.
MERGED = 1e-9
#: Other starts, and the divergence in nats above which they are tried.
RIVALS, POOR = 1, 1e-4


class CompiledRefiner(NamedTuple):
    """What a refiner learned, as the compiled loop takes it: later training does not alter it.

    Attributes:
        networks: Of its start, for each number of components from one.
        table: Of its blocks, see ``Rules``.
    """

    networks: tuple[Network, ...]
    table: Array

    @classmethod
    @torch.no_grad()
    def of(cls, refiner: Refiner) -> "CompiledRefiner":
        """What a refiner knows now."""
        start = refiner.start
        seen = (start.normal, torch.special.ndtr(start.normal), start.places)
        normal, levels, places = (_copied(tensor) for tensor in seen)
        first, second = _copied(start.first.weight.T), _weights(start.second)
        biases = (_copied(bias) for bias in start.first.bias + start.count.weight)
        networks = tuple(
            Network(normal, levels, places, first, bias, *second, *_weights(start.head(k)))
            for k, bias in enumerate(biases, start=1)
        )
        rows = [torch.cat([b.damping, b.longest[None], b.step_sizes]) for b in refiner.steps]
        return cls(networks, _copied(torch.stack(rows)))


def _weights(layer: nn.Linear) -> tuple[Array, Array]:
    return _copied(layer.weight.T), _copied(layer.bias)


def _copied(tensor: Tensor) -> Array:
    return np.array(tensor.detach().numpy(), np.float64, order="C")


def infer(
    refiner: Refiner | CompiledRefiner,
    gridded: Gridded,
    components: int,
    *,
    steps: int = 16,
    enough: float = 2e-7,
    merged: float = MERGED,
    rivals: int = RIVALS,
    poor: float = POOR,
) -> Mixture:
    """Fit mixtures by a refiner: its blocks, and then the last of them again, as far as it pays.

    Args:
        refiner: On the CPU. To compile it once is worth it where densities come one by one.
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
    if not 1 <= components <= MAX_COMPONENTS:
        raise ValueError(f"components are 1 to {MAX_COMPONENTS}, found {components}")
    known = CompiledRefiner.of(refiner) if isinstance(refiner, Refiner) else refiner
    rules = Rules(known.table, steps, enough, merged, sigma_floor(gridded.kind), poor)
    network, others = known.networks[components - 1], recipes(components, rivals)
    out = np.empty((len(gridded.masses), 3, components))
    refine_all(as_array(gridded.masses), as_array(gridded.edges), network, others, rules, out)
    return Mixture(*torch.from_numpy(out).unbind(1))
