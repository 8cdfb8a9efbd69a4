r"""A random circuit with the structure of a placed one, and its statistical delays.

Gates lie in levels and have a place across the chip. The first input comes from the level before,
the others from up to six levels before, all from nearby: so paths part and meet again all the
time. The delay of gate g is

.. math:: d_g = n_g (1 + a_g \cdot X) + s_g R_g

with global factors X (standard normal, shared by all gates: die to die variation) and local
:math:`R_g` (independent, of mean zero and variance one, skewed or bimodal: one of the mixtures in
``LOCAL``). Not modeled: variation that is shared by a region of the chip only, the dependence of
delays on slews and loads, false paths.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.gmm.mixture import Mixture

INPUTS, FACTORS, SPAN = 4, 2, 6
_FANIN = (0.25, 0.5, 0.17, 0.08)  # shares of gates with one to four inputs

#: Weights, means and sigmas before standardization: near normal, skewed, bimodal.
LOCAL = (
    ((0.5, 0.5), (-0.1, 0.1), (1.0, 1.0)),
    ((0.75, 0.25), (-0.4, 1.2), (0.6, 1.1)),
    ((0.65, 0.35), (-1.0, 1.6), (0.5, 0.5)),
)


@dataclass(frozen=True)
class Circuit:
    """A graph of N gates in the order of their levels.

    Attributes:
        inputs: Gates that drive each gate, (N, 4), -1 where there is none.
        levels: First gate of each level, and N.
        nominal: Mean delays, (N).
        global_shares: a, relative change of the delay a sigma of each factor, (N, 2).
        local: s, standard deviation of the local part, (N).
        law: Index into LOCAL of the law of the local part, (N).
        ends: Gates that drive no other: the endpoint is the latest of them.
    """

    inputs: NDArray[np.int32]
    levels: NDArray[np.int64]
    nominal: NDArray[np.float64]
    global_shares: NDArray[np.float64]
    local: NDArray[np.float64]
    law: NDArray[np.int32]
    ends: NDArray[np.int64]


def random_circuit(gates: int, depth: int, seed: int) -> Circuit:
    """Draw a circuit of that many gates and levels."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(0, gates, depth + 1).astype(np.int64)
    place = rng.random(gates)
    inputs, drives = np.full((gates, INPUTS), -1, np.int32), np.zeros(gates, np.int64)
    fanin = rng.choice(INPUTS, gates, p=_FANIN) + 1
    for level in range(1, depth):
        for gate in range(levels[level], levels[level + 1]):
            back = 1 + np.minimum(rng.geometric(0.5, fanin[gate]) - 1, min(SPAN, level) - 1)
            back[0] = 1
            for i, steps in enumerate(back):
                source = slice(levels[level - steps], levels[level - steps + 1])
                distance = np.abs(place[source] - place[gate] - 0.02 * rng.normal())
                distance = np.minimum(distance, 1 - distance) + 0.01 * drives[source]
                inputs[gate, i] = source.start + distance.argmin()
                drives[inputs[gate, i]] += 1
    nominal = rng.lognormal(0, 0.25, gates) * (0.8 + 0.1 * np.minimum(drives, 6))
    return Circuit(
        inputs=_distinct(inputs),
        levels=levels,
        nominal=nominal,
        global_shares=np.stack(
            [0.04 + 0.01 * rng.normal(size=gates), 0.025 + 0.01 * rng.normal(size=gates)], axis=1
        ),
        local=nominal * rng.uniform(0.05, 0.15, gates),
        law=rng.integers(len(LOCAL), size=gates).astype(np.int32),
        ends=np.flatnonzero(drives == 0),
    )


def local_law(index: int) -> Mixture:
    """One of LOCAL with mean zero and variance one."""
    weights, means, sigmas = (torch.tensor(part, dtype=torch.float64) for part in LOCAL[index])
    means = means - (weights * means).sum()
    scale = (weights * (means.square() + sigmas.square())).sum().sqrt()
    return Mixture(weights.log(), means / scale, sigmas / scale)


def _distinct(inputs: NDArray[np.int32]) -> NDArray[np.int32]:
    """A gate that drew an input twice has it once; the inputs that are there come first."""
    for i in range(1, INPUTS):
        twice = (inputs[:, i : i + 1] == inputs[:, :i]).any(axis=1)
        inputs[twice, i] = -1
    order = np.argsort(inputs < 0, axis=1, kind="stable")
    return np.take_along_axis(inputs, order, axis=1)
