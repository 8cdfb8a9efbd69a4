"""Compiled arithmetic of the standard normal, in branch-free code that becomes vector code."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])


#: Numba's own types leave out some of its options.
jit: Any = njit

# Only the entry is called from Python: wrappers of the others would double the time to compile.
_INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: F) -> F:
    """Compile as a part of what calls it; products and sums may be fused."""
    result: F = jit(fastmath={"contract", "nsz"}, **_INNER)(function)
    return result


def compiled_sums(function: F) -> F:
    """The same, and sums may be reordered; which the rounding of `exp` would not survive."""
    result: F = jit(fastmath={"contract", "nsz", "reassoc"}, **_INNER)(function)
    return result


def compiled_exactly(function: F) -> F:
    """The same, but each product and sum is rounded by itself, as tensor operations do it."""
    result: F = jit(**_INNER)(function)
    return result


def kept(entry: F) -> F:
    """Compile what is called from Python, and keep the code on disk where that can be written."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        result: F = jit(cache=True, **options)(entry)
    except RuntimeError:  # nowhere to write
        result = jit(**options)(entry)
    return result


def _cast_bits(context: Any, value: Any) -> Any:
    """Typing and code of a float64's bits as an integer."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), emit


def _cast_float(context: Any, value: Any) -> Any:
    """Typing and code of an integer's bits as a float64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), emit


_bits: Any = intrinsic(_cast_bits)
_float: Any = intrinsic(_cast_float)

# (1 - Phi(t)) / exp(-t^2/2) for t >= 0 as P(t) / Q(t): relative error below 5e-16. The minimax
# fit has positive coefficients alone, so that no sum cancels.
_P = (
    0.49999999999999983,
    0.8020956407488028,
    0.6341856233105558,
    0.3184549646663494,
    0.11097747933708713,
    0.027746864151071155,
    0.004981309490416676,
    0.0006220617767448093,
    4.949836931897235e-05,
    1.9476159769574866e-06,
)
_Q = (
    1.0,
    2.4020758423004005,
    2.6849504750722355,
    1.844114059006234,
    0.8647296001434793,
    0.2904174294253123,
    0.0711005879798978,
    0.012610365225115815,
    0.0015641595874338746,
    0.00012407401208305803,
    4.881949275964719e-06,
)
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_ROUND = 6755399441055744.0  # 1.5 * 2**52: what is added to it is rounded to an integer
_E = tuple(1 / math.factorial(n) for n in range(13))
DENSITY = 1 / math.sqrt(2 * math.pi)
#: Where exponents are cut at the latest, before float64 underflows.
LEAST_EXPONENT = -690.0


@compiled
def fast_exp(x: float) -> float:
    """Exponential of x in [-700, 0]."""
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    q = _E[8] + r * (_E[9] + r * (_E[10] + r * (_E[11] + r * _E[12])))
    q = 0.5 + r * (_E[3] + r * (_E[4] + r * (_E[5] + r * (_E[6] + r * (_E[7] + r * q)))))
    result: float = _float(_bits(1.0 + r * (1.0 + r * q)) + (_bits(shifted) << 52))
    return result


@compiled
def scaled_tail(t: float) -> float:
    """(1 - Phi(t)) / exp(-t^2 / 2) for t >= 0."""
    p = _P[5] + t * (_P[6] + t * (_P[7] + t * (_P[8] + t * _P[9])))
    p = _P[0] + t * (_P[1] + t * (_P[2] + t * (_P[3] + t * (_P[4] + t * p))))
    q = _Q[6] + t * (_Q[7] + t * (_Q[8] + t * (_Q[9] + t * _Q[10])))
    q = 1.0 + t * (_Q[1] + t * (_Q[2] + t * (_Q[3] + t * (_Q[4] + t * (_Q[5] + t * q)))))
    return p / q


@compiled
def at_edges(
    edges: Array, mean: float, rate: float, least: float, z: Array, phi: Array, tail: Array
) -> None:
    """Standard edges, the normal density there, and the smaller tail, negative above the mean.

    Exponents are cut at ``least``.
    """
    for j in range(len(edges)):
        x = (edges[j] - mean) * rate
        q = fast_exp(max(-0.5 * x * x, least))
        r = q * scaled_tail(abs(x))
        z[j] = x
        phi[j] = DENSITY * q
        tail[j] = r if x < 0 else -r


_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_ROUND_BITS = 0x4338000000000000


@compiled
def fast_log(x: float) -> float:
    """Natural logarithm of a normal positive number."""
    bits = _bits(x)
    exponent = (bits - _SQRT_HALF_BITS) >> 52
    f = _float(bits - (exponent << 52)) - 1.0
    s = f / (2.0 + f)
    t = s * s
    q = 1 / 13 + t * (1 / 15 + t * (1 / 17 + t * (1 / 19 + t * (1 / 21))))
    q = 1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t * q))))
    n = _float(exponent + _ROUND_BITS) - _ROUND
    result: float = n * _LN2_HIGH + (n * _LN2_LOW + 2.0 * (s + s * t * q))
    return result
