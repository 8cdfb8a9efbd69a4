"""The classical solver: the default, and what learned fits that fail fall back on."""

from torch import Tensor

from kernels.gmm import Gridded, Mixture
from kernels.gmm.solve import solve


def solve_classically(gridded: Gridded, components: int) -> tuple[Mixture, Tensor]:
    """Fits of the classical solver, (B, K), and their divergences, (B)."""
    found = solve(gridded, components)
    return found.mixture, found.kl
