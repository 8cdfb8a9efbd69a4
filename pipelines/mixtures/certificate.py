"""Whether a fit may stand, found out for less than another fit would cost."""

from torch import Tensor

from kernels.gmm import Gridded, Mixture
from kernels.gmm.fused import descend

#: A divergence, in nats, that needs no further proof.
GOOD = 1e-4
#: Steps of scoring that a worse fit has to bear, and the share of its divergence that they may
#: gain: a fit that lies at the bottom of its basin gains next to nothing.
STEPS, GAIN = 4, 0.1


def certified(gridded: Gridded, m: Mixture, kl: Tensor) -> Tensor:
    """Which fits are finite and either good or at rest, (B).

    A few steps of scoring lower the divergence wherever there is something to gain nearby. What
    they cannot see is a better basin: ``benchmarks/gmm.py`` measures how often that matters.

    Args:
        gridded: The densities.
        m: Their fits, (B, K).
        kl: The divergences of the fits, (B), NaN where one is not finite.
    """
    good = kl <= GOOD
    doubtful = (kl.isfinite() & ~good).nonzero()[:, 0]
    if not len(doubtful):
        return good
    part = Mixture(*(tensor[doubtful] for tensor in m))
    after = descend(gridded.rows(doubtful), part, budget=1 + STEPS, warm=0)
    return good.index_copy(0, doubtful, after.kl >= (1 - GAIN) * kl[doubtful])


def divergence(gridded: Gridded, m: Mixture) -> Tensor:
    """The binned divergence of each fit, (B), compiled; NaN where one is not finite."""
    return descend(gridded, m, method="em", budget=1).kl
