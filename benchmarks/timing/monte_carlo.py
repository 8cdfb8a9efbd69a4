"""Samples of the endpoint's arrival time, every gate drawn anew in each of them."""

from collections.abc import Callable
from typing import cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.timing.circuit import FACTORS, LOCAL, Circuit, local_law
from kernels.gmm.mixture import Mixture, quantile

_LANES = 128
_BITS = 13


def endpoint_samples(
    circuit: Circuit, samples: int, seed: int, factors: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Arrival times at the endpoint.

    Args:
        circuit: Where each gate's delay is drawn in each sample.
        samples: Rounded up to whole blocks of 64.
        seed: Of all draws.
        factors: One value of the global factors for all samples, (2); default: drawn.
    """
    rng = np.random.default_rng(seed)
    blocks = -(-samples // _LANES)
    x = rng.standard_normal((blocks, FACTORS, _LANES)).astype(np.float32)
    if factors is not None:
        x[:] = np.asarray(factors, np.float32)[None, :, None]
    state = rng.integers(1, 2**32, (4, _LANES), dtype=np.uint32)
    out = np.empty((blocks, _LANES), np.float32)
    _simulate(
        circuit.inputs,
        circuit.nominal.astype(np.float32),
        (circuit.nominal[:, None] * circuit.global_shares).astype(np.float32),
        circuit.local.astype(np.float32),
        circuit.law,
        np.isin(np.arange(len(circuit.law)), circuit.ends),
        _window(circuit),
        _tables(),
        x,
        state,
        out,
    )
    return out.ravel()


def _window(circuit: Circuit) -> int:
    """How far back in the order of gates any gate reaches for an input, plus one."""
    reach = np.arange(len(circuit.inputs))[:, None] - circuit.inputs
    return int(reach[circuit.inputs >= 0].max()) + 1


def _tables() -> NDArray[np.float32]:
    """Each local law as 2^13 equally likely values, small enough for the cache, of variance one."""
    p = (torch.arange(2**_BITS, dtype=torch.float64) + 0.5) / 2**_BITS
    laws = [local_law(index) for index in range(len(LOCAL))]
    stacked = Mixture(*(torch.stack(parts) for parts in zip(*laws, strict=True)))
    values = quantile(stacked, p)
    values = values - values.mean(dim=1, keepdim=True)
    return (values / values.square().mean(dim=1, keepdim=True).sqrt()).float().numpy()


def _xoshiro(state: NDArray[np.uint32], drawn: NDArray[np.uint16]) -> None:
    """Sixteen bits a lane from its own xoshiro128+ (Blackman & Vigna 2021)."""
    for lane in range(state.shape[1]):
        a, b, c, d = state[0, lane], state[1, lane], state[2, lane], state[3, lane]
        drawn[lane] = np.uint32(a + d) >> np.uint32(32 - _BITS)
        c, d = c ^ a, d ^ b
        state[0, lane], state[1, lane] = a ^ d, b ^ c
        state[2, lane] = c ^ np.uint32(b << np.uint32(9))
        state[3, lane] = np.uint32(d << np.uint32(11)) | np.uint32(d >> np.uint32(21))


_draw = cast(Callable[..., None], numba.njit(_xoshiro, cache=True))


def _larger(kept: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    for lane in range(len(kept)):
        kept[lane] = other[lane] if other[lane] > kept[lane] else kept[lane]


_keep_larger = cast(Callable[..., None], numba.njit(_larger, cache=True))


def _add(
    latest: NDArray[np.float32],
    nominal: np.float32,
    shares: NDArray[np.float32],
    x: NDArray[np.float32],
    local: np.float32,
    table: NDArray[np.float32],
    drawn: NDArray[np.uint16],
) -> None:
    for lane in range(len(latest)):
        common = shares[0] * x[0, lane] + shares[1] * x[1, lane]
        latest[lane] += nominal + common + local * table[drawn[lane]]


_add_delay = cast(Callable[..., None], numba.njit(_add, cache=True))


def _fill(
    inputs: NDArray[np.int32],
    nominal: NDArray[np.float32],
    shares: NDArray[np.float32],
    local: NDArray[np.float32],
    law: NDArray[np.int32],
    end: NDArray[np.bool_],
    window: int,
    tables: NDArray[np.float32],
    x: NDArray[np.float32],
    state: NDArray[np.uint32],
    out: NDArray[np.float32],
) -> None:
    gates, lanes = len(nominal), out.shape[1]
    # A ring of the gates that others still wait for stays in the cache; all gates would not.
    arrival = np.empty((window, lanes), np.float32)
    latest, drawn = np.empty(lanes, np.float32), np.empty(lanes, np.uint16)
    for block in range(len(out)):
        out[block] = 0
        for gate in range(gates):
            latest[:] = 0
            for source in inputs[gate]:
                if source >= 0:
                    _keep_larger(latest, arrival[source % window])
            _draw(state, drawn)
            _add_delay(
                latest, nominal[gate], shares[gate], x[block], local[gate], tables[law[gate]], drawn
            )
            arrival[gate % window] = latest
            if end[gate]:
                _keep_larger(out[block], latest)


_simulate = cast(Callable[..., None], numba.njit(_fill, cache=True))
