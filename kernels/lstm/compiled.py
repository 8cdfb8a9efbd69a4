"""The step loop compiled in chunks of a few steps.

A chunk is unrolled by the compiler, the loop over chunks is Python's: the time to compile does
not depend on the number of steps, which unrolling a whole sequence does (a thousand steps take
a quarter of an hour). On a CPU the hand-written backward pass is faster and needs no compiler;
chunks are for GPUs, where a step's many small kernels cost more to launch than to run. They have
not been measured there.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from kernels.lstm.analytic import Unrolled
from kernels.lstm.feedback import Feedback
from kernels.lstm.stepping import State, unroll_steps
from kernels.lstm.terms import Terms

CHUNK = 3
"""Steps a chunk. Compiling takes time in proportion: with five it is over a minute on a CPU."""

Backend = str | Callable[..., Any]


_GRAPHS = 64


@cache
def _compiled(backend: Backend) -> Callable[..., Any]:
    # Context and prediction, first chunks and later ones, training and validation, whole batches
    # and last ones: all are graphs of their own, and after eight torch would stop compiling.
    dynamo = torch._dynamo.config
    dynamo.cache_size_limit = max(_GRAPHS, dynamo.cache_size_limit)
    return torch.compile(unroll_steps, backend=backend, dynamic=False)


def unroll_compiled(
    terms: Terms, state: State, feedback: Feedback | None = None, backend: Backend = "inductor"
) -> Unrolled:
    """All steps, :data:`CHUNK` at a time; those that are left one by one.

    Args:
        terms: What enters.
        state: h and c before the first step, (B, H) each.
        feedback: How outputs are fed back.
        backend: Of ``torch.compile``.
    """
    parts: list[Unrolled] = []
    known = (None,) * len(terms.rows) if terms.fed is None else torch.split(terms.fed, CHUNK)
    for part, (rows, fed) in enumerate(zip(torch.split(terms.rows, CHUNK), known, strict=False)):
        heard = feedback and feedback.part(part * CHUNK, len(rows), state[0])
        run = _compiled(backend) if len(rows) == CHUNK else unroll_steps
        parts.append(run(terms._replace(rows=rows, fed=fed), state, heard))
        state = parts[-1].state
    attention = [part.attention for part in parts if part.attention is not None]
    return Unrolled(
        torch.cat([part.hidden for part in parts]),
        state[1],
        torch.cat(attention) if attention else None,
    )
